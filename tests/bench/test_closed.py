import json

import pytest

from .closed import Load, cell_of, parse
from .servers import ServerError

SUMMARY = {
    "requests": 600,
    "duration_us": 3_000_000,
    "p50_us": 5_000,
    "p95_us": 9_000,
    "p99_us": 20_000,
    "not_2xx": 2,
    "broken": 1,
}


def test_the_summary_is_the_last_line_that_wrk_prints() -> None:
    assert parse(f"Running 3s test\n  Requests/sec: 200\n{json.dumps(SUMMARY)}\n") == SUMMARY


def test_wrk_without_a_summary_is_an_error_that_quotes_it() -> None:
    with pytest.raises(ServerError, match="unable to connect"):
        parse("", "unable to connect to 127.0.0.1")


def test_figures_are_per_second_per_text_and_per_token() -> None:
    load = Load(bodies=(b"",), batch=32, callers=4, tokens_per_body=100.0)
    cell = cell_of(SUMMARY, load, cpu_s=6.0)
    assert cell.requests_per_s == pytest.approx(200)
    assert cell.texts_per_s == pytest.approx(6_400)
    assert (cell.p50_ms, cell.p95_ms, cell.p99_ms) == (5.0, 9.0, 20.0)
    assert cell.cpu_s_per_million_tokens == pytest.approx(100.0)
    assert cell.not_answered == 3
