import pytest

from app.api.errors import STATUS_BY_ERROR
from app.api.openapi import documented_error
from app.errors import LightMBERTError, TextTooLongError, error_types
from app.metrics import STATUSES


def test_every_kind_of_error_has_a_status() -> None:
    assert set(STATUS_BY_ERROR) == set(error_types())


def test_every_kind_of_error_has_its_own_code() -> None:
    codes = [kind.code for kind in error_types()]
    assert len(set(codes)) == len(codes)


def test_every_status_is_counted() -> None:
    assert {str(status) for status in STATUS_BY_ERROR.values()} <= set(STATUSES)


@pytest.mark.parametrize("status", sorted(set(STATUS_BY_ERROR.values())))
def test_every_status_is_documented_with_an_error_that_has_it(status: int) -> None:
    example = documented_error(status)["content"]["application/json"]["example"]["error"]
    by_code = {kind.code: answered for kind, answered in STATUS_BY_ERROR.items()}
    assert by_code[example["code"]] == status


def test_the_tree_in_the_docstring_names_every_error() -> None:
    from app import errors

    for kind in (LightMBERTError, *error_types()):
        assert kind.__name__ in (errors.__doc__ or "")


def test_a_count_that_stopped_early_says_so() -> None:
    exact = TextTooLongError(index=0, tokens=912, limit=512)
    stopped = TextTooLongError(index=0, tokens=1_030, limit=512, or_more=True)
    assert "has 912 tokens; this model accepts 512" in str(exact)
    assert "has at least 1030 tokens" in str(stopped)
