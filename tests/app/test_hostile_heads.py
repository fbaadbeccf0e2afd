"""Whatever lies in the folder of heads, the others are served, and nobody waits for it."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from fitted import described, heads_of, publish, reweighted, sealed
from serving import serving

from app import head_folder
from app.head_file import HeadError
from app.head_fitting import check_new_name
from app.head_folder import list_heads, read_head, remove_head
from app.settings import Settings

BIAS = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}


def weighted(written: bytes) -> Callable[[Path], None]:
    return lambda folder: reweighted(folder, written)


def without_numpy_type() -> bytes:
    header = {"weight": {"dtype": "F8_E4M3", "shape": [2, 4], "data_offsets": [0, 8]}, "bias": BIAS}
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + bytes(16)


def too_large() -> bytes:
    weight = np.full((2, 4), 3e38, np.float32)
    return safetensors.numpy.save({"weight": weight, "bias": np.zeros(2, np.float32)})


def a_pipe(folder: Path) -> None:
    (folder / "head.json").unlink()
    os.mkfifo(folder / "head.json")


def a_pipe_for_weights(folder: Path) -> None:
    [weights] = folder.glob("*.safetensors")
    weights.unlink()
    os.mkfifo(weights)


def a_circle(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def hashed(file: str) -> dict[str, str]:
    return {"file": file, "sha256": "0" * 64}


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (a_pipe, "is no regular file"),
    "a pipe for weights": (a_pipe_for_weights, "is no regular file"),
    "a circle of links": (a_circle, "Too many levels of symbolic links"),
    "a null in a path": (lambda folder: sealed(folder, weights=hashed("a\0b")), "a relative path"),
    "a long path": (lambda folder: sealed(folder, weights=hashed("a" * 5_000)), "at most 255"),
    "a type that numpy has not": (weighted(without_numpy_type()), "cannot be read: 'F8_E4M3'"),
    "numbers too large": (weighted(too_large()), "undefined numbers, or some above 1e+09"),
    "no temperature at all": (
        lambda folder: sealed(folder, task={"labels": ["a", "b"], "temperature": 1e-300}),
        "task.temperature: ",
    ),
    "labels that repeat": (
        lambda folder: sealed(folder, task={"labels": ["x" * 999] * 999}),
        "labels repeat: 'xxx",
    ),
    "a long revision": (
        lambda folder: sealed(
            folder, fitted_on={"model": "toy", "revision": "2" * 9_999, "dimension": 4}
        ),
        "it was fitted on revision 222",
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_what_cannot_be_used_is_refused_in_few_words_and_the_others_are_used(
    toy_model_dir: Path, tmp_path: Path, how: str
) -> None:
    spoil, reason = HOSTILE[how]
    publish(tmp_path, described("whole"))
    spoil(publish(tmp_path))
    heads = heads_of(toy_model_dir, tmp_path)
    assert list(heads.fitted) == ["whole"]
    assert reason in str(heads.refused["pets"])
    assert len(str(heads.refused["pets"])) < 400 + len(str(tmp_path))


def test_a_head_of_another_model_is_not_replaced(toy_model_dir: Path, tmp_path: Path) -> None:
    settings = Settings(model_dir=toy_model_dir, heads_dir=tmp_path)
    publish(tmp_path)
    check_new_name("pets", settings)  # of the same model: it is fitted again
    whole = described()
    on_other = whole.fitted_on.model_copy(update={"model": "other"})
    publish(tmp_path, whole.model_copy(update={"fitted_on": on_other}))
    with pytest.raises(HeadError, match="already, fitted on other, and this is toy"):
        check_new_name("pets", settings)
    check_new_name("dogs", settings)


async def test_a_name_that_is_no_utf_8_can_be_told(toy_model_dir: Path, tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"\xff\xfe")
    os.mkdir(folder)
    Path(os.fsdecode(folder), "head.json").write_text("{}")
    async with serving(toy_model_dir, heads_dir=tmp_path) as http:
        [model] = (await http.get("/info")).json()["models"]
    assert list(model["refused_heads"]) == ["??"]
    [(name, error)] = list_heads(tmp_path).items()
    assert f"{name} {error}".encode().startswith(b"??")


def test_one_that_is_removed_while_it_is_read_is_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(tmp_path)
    read = head_folder._bytes_of

    def removed_before_weights(path: Path, most: int) -> bytes:
        if path.name != "head.json":
            shutil.rmtree(folder)
        return read(path, most)

    monkeypatch.setattr(head_folder, "_bytes_of", removed_before_weights)
    with pytest.raises(HeadError, match="holds no head"):
        read_head(folder)


def test_what_was_refused_is_not_read_again_until_it_changes(
    toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(tmp_path)
    [weights] = folder.glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:40])  # as while it is being copied
    heads = heads_of(toy_model_dir, tmp_path)
    asked: list[Path] = []
    read = head_folder._bytes_of
    monkeypatch.setattr(
        head_folder, "_bytes_of", lambda path, most: asked.append(path) or read(path, most)
    )
    for _ in range(3):
        heads.refresh()
    assert not asked
    with weights.open("ab") as file:
        file.write(whole[40:])
    heads.refresh()
    assert list(heads.fitted) == ["pets"]


def test_what_the_system_did_not_give_is_asked_for_again(
    toy_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path)

    def short(path: str, flags: int) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(head_folder, "_at_once", short)
        heads = heads_of(toy_model_dir, tmp_path)
        assert "cannot be read: Too many open files" in str(heads.refused["pets"])
    heads.refresh()
    assert list(heads.fitted) == ["pets"]


def test_none_is_written_that_would_not_be_read(tmp_path: Path) -> None:
    large = described(labels=("x" * 9_000_000, "y"))
    with pytest.raises(HeadError, match=r"head\.json would be larger than 8388608 bytes"):
        publish(tmp_path, large)
    assert not list(tmp_path.iterdir())


def test_heads_fitted_at_once_under_one_name_leave_one_of_them_whole(tmp_path: Path) -> None:
    def fit(first: int) -> None:
        for turn in range(25):
            publish(tmp_path, strength=first + turn)
            read_head(tmp_path / "pets")

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(fit, 100 * number) for number in range(3)]:
            done.result()
    assert len(list((tmp_path / "pets").glob("*.safetensors"))) == 1


@pytest.mark.parametrize("name", ["../other", "..", ".", "", "sub/pets", ".hidden", "/etc"])
def test_nothing_but_a_head_is_removed(tmp_path: Path, name: str) -> None:
    outside = publish(tmp_path, described("other"))
    (tmp_path / "heads" / "sub").mkdir(parents=True)
    publish(tmp_path / "heads" / "sub")
    with pytest.raises(HeadError, match="is no name of a head"):
        remove_head(tmp_path / "heads", name)
    assert (outside / "head.json").exists()


def test_of_a_link_only_the_link_is_removed(tmp_path: Path) -> None:
    folder = publish(tmp_path / "elsewhere")
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "pets").symlink_to(folder)
    remove_head(tmp_path / "heads", "pets")
    assert not list((tmp_path / "heads").iterdir())
    assert read_head(folder).file.name == "pets"
