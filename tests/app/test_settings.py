from pathlib import Path

import pytest
from pydantic import ValidationError

from app import settings as settings_module
from app.runtime.cpus import allowed_cpus, cpu_quota
from app.settings import EMBEDDED_STUDENT, Settings, load_settings


def test_a_variable_sets_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMBERT_MAX_BATCH_TOKENS", "512")
    assert load_settings().max_batch_tokens == 512


@pytest.mark.parametrize("name", ["LIGHTMBERT_MAX_BATCH_TOKEN", "lightmbert_bogus"])
def test_a_misspelt_variable_is_refused_and_the_known_ones_listed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "512")
    with pytest.raises(ValueError, match=f"{name}; known: .*LIGHTMBERT_MAX_BATCH_TOKENS"):
        load_settings()


@pytest.mark.parametrize(
    ("field", "value"),
    [("port", 70_000), ("device", "tpu"), ("precision", "int4"), ("runners", 0), ("bogus", 1)],
)
def test_a_wrong_value_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Settings(**{field: value})


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 9_000


def test_the_embedded_student_is_found_from_any_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().model_dir == EMBEDDED_STUDENT
    assert EMBEDDED_STUDENT.is_absolute()
    assert EMBEDDED_STUDENT.parts[-2:] == ("models", "lightmbert-mini")


@pytest.mark.parametrize(
    ("cpus", "threads", "runners"), [(1, 1, 1), (2, 1, 2), (8, 2, 4), (32, 4, 8)]
)
def test_threads_and_runners_share_out_the_cpus(
    monkeypatch: pytest.MonkeyPatch, cpus: int, threads: int, runners: int
) -> None:
    monkeypatch.setattr(settings_module, "allowed_cpus", lambda: cpus)
    settings = Settings()
    assert (settings.intra_op_threads, settings.runners) == (threads, runners)


def test_more_threads_for_a_run_leave_fewer_runners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "allowed_cpus", lambda: 8)
    assert Settings(intra_op_threads=8).runners == 1


def test_no_more_workers_than_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "allowed_cpus", lambda: 3)
    assert load_settings(workers=3).workers == 3
    with pytest.raises(ValidationError, match="at most 3, one for each CPU"):
        load_settings(workers=4)


def test_what_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTMBERT_PORT", "7000")
    monkeypatch.setenv("LIGHTMBERT_HOST", "::1")
    settings = load_settings(port=7001, host=None)
    assert (settings.port, settings.host) == (7001, "::1")


def test_there_is_always_a_cpu() -> None:
    assert allowed_cpus() >= 1


def test_the_tightest_quota_of_all_enclosing_groups_counts(tmp_path: Path) -> None:
    inner = tmp_path / "pod" / "container"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("400000 100000\n")
    (tmp_path / "pod" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path, "/pod/container") == 1.5


def test_the_older_kind_of_quota_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(tmp_path, "/") == 2.0
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path, "/") is None


@pytest.mark.parametrize("given", ["/a:/b", "/a:/b:", [Path("/a"), Path("/b")]])
def test_several_model_folders_may_be_named(given: object) -> None:
    settings = load_settings(model_dir=given)
    assert settings.model_dirs == (Path("/a"), Path("/b"))
    assert settings.model_dir == Path("/a")


@pytest.mark.parametrize("given", ["", ":", [], [Path("/a:/b")]])
def test_none_at_all_or_one_that_cannot_be_told_apart_is_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="model_dir"):
        load_settings(model_dir=given)


def test_what_was_set_can_be_told_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"model_dir": "/a:/b", "port": 7_000, "api_key": "geheim", "max_wait_s": 2.5}
    settings = load_settings(**given)
    for name, value in settings.variables().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
