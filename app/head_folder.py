"""A fitted head on disk: `NAME/head.json`, and the weights that it names, in a file beside it.

The weights are named after their own hash and written first; `head.json` takes the place of the
one before in one step. Whoever reads meanwhile gets the old head or the new one, and whoever is
killed while writing leaves the old one whole. Hashes tell damage, and edits made in good faith;
whoever may write to the folder may also compute them.
"""

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from pydantic import ValidationError
from safetensors import SafetensorError

from app.errors import shortened
from app.head_file import HEAD_FILE, FittedHead, HeadError, HeadFile, UnreadableHeadError
from app.runtime.artifact import HashedFile
from app.runtime.outputs import Floats

MAX_BYTES = 134_217_728
"""Of the weights, which are as large as the labels times the embedding."""
MAX_DESCRIBED_BYTES = 8_388_608
"""Of `head.json`."""

_LARGEST = 1e9
"""Of a weight: far beyond what fitting gives, and within what float32 can multiply and add."""

_ATTEMPTS = 3
"""To read a head that is replaced meanwhile."""


def read_head(folder: Path) -> FittedHead:
    """The head in `folder`, whole and as it was written.

    Raises:
        HeadError: it is missing, malformed, altered, or too large.
    """
    before = b""
    for _ in range(_ATTEMPTS):
        try:
            described = _bytes_of(folder / HEAD_FILE, MAX_DESCRIBED_BYTES)
        except FileNotFoundError:
            raise HeadError(f"{folder} holds no head") from None
        file = _validated(described, folder)
        try:
            return _assembled(file, _bytes_of(folder / file.weights.file, MAX_BYTES), folder)
        except FileNotFoundError:
            if described == before:
                raise HeadError(f"{folder / file.weights.file} does not exist") from None
        before = described
    raise HeadError(f"{folder} changes faster than it can be read")


def list_heads(heads_dir: Path, *, only: str = "[!.]*") -> dict[str, HeadFile | HeadError]:
    """By name what each says of itself, or why it cannot be read; nothing where there is no folder.

    `only` is a pattern of names.
    """
    found: dict[str, HeadFile | HeadError] = {}
    for path in sorted(heads_dir.glob(f"{only}/{HEAD_FILE}")):
        name = tellable(path.parent.name)
        try:
            found[name] = read_head(heads_dir / name).file
        except HeadError as error:
            found[name] = error
    return found


def tellable(name: str) -> str:
    """The name of a folder; another one if it is no UTF-8, which no head's name is."""
    return name.encode(errors="replace").decode()


def publish_head(
    heads_dir: Path, file: HeadFile, *, weight: Floats, bias: Floats, picture: bytes | None = None
) -> Path:
    """Put a head into `heads_dir`, in the place of one of its name; the folder of the head.

    Args:
        heads_dir: made if it does not exist.
        file: `weights` and `seal` are filled in here.
        weight: (C, D).
        bias: (C,).
        picture: a PNG beside it, `learning_curve.png`.

    Raises:
        HeadError: it cannot be written, or would be too large to be read.
    """
    folder = heads_dir / file.name
    written = safetensors.numpy.save({"weight": weight, "bias": bias})
    sha256 = hashlib.sha256(written).hexdigest()
    weights = HashedFile(file=f"head-{sha256[:12]}.safetensors", sha256=sha256)
    described = json.loads(file.model_copy(update={"weights": weights}).model_dump_json())
    described["seal"] = _seal(described)
    contents = {weights.file: written}
    if picture is not None:
        contents["learning_curve.png"] = picture
    contents[HEAD_FILE] = json.dumps(described, indent=1, ensure_ascii=False).encode() + b"\n"
    for name, most in ((HEAD_FILE, MAX_DESCRIBED_BYTES), (weights.file, MAX_BYTES)):
        if len(contents[name]) > most:
            raise HeadError(f"{name} would be larger than {most} bytes: there are too many labels")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            for name, content in contents.items():
                _replace(folder / name, content)
            for old in folder.glob("head-*.safetensors"):
                if old.name != weights.file:
                    old.unlink(missing_ok=True)
    except OSError as error:
        raise HeadError(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def remove_head(heads_dir: Path, name: str) -> None:
    """Take a head out of use, and delete it.

    Raises:
        HeadError: there is none of that name, or it cannot be deleted.
    """
    # Or anything anywhere could be deleted.
    if not name or name.startswith(".") or Path(name).name != name:
        raise HeadError(f"{shortened(name)!r} is no name of a head")
    folder = heads_dir / name
    try:
        if folder.is_symlink():  # what it leads to is not ours
            folder.unlink()
            return
        (folder / HEAD_FILE).unlink()
        with _alone_in(folder):
            shutil.rmtree(folder)
    except FileNotFoundError as error:
        raise HeadError(f"{folder} holds no head") from error
    except OSError as error:
        raise HeadError(f"{folder} cannot be deleted: {error.strerror}") from error


def _validated(described: bytes, folder: Path) -> HeadFile:
    path = folder / HEAD_FILE
    try:
        file = HeadFile.model_validate_json(described)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise HeadError(f"{path} is not a head: {place}: {first['msg']}") from None
    if file.seal != _seal(json.loads(described)):
        raise HeadError(f"{path} was altered: its seal does not hold")
    if file.name != folder.name:
        raise HeadError(f"{path} is of a head {file.name!r}; its folder must be named so")
    return file


def _assembled(file: HeadFile, weights: bytes, folder: Path) -> FittedHead:
    path = folder / file.weights.file
    if hashlib.sha256(weights).hexdigest() != file.weights.sha256:
        raise HeadError(f"{path} was altered: its sha256 is not the one in {HEAD_FILE}")
    try:
        tensors = safetensors.numpy.load(weights)
    except (SafetensorError, KeyError) as error:  # the latter of a type that numpy has not
        raise HeadError(f"{path} cannot be read: {shortened(str(error))}") from error
    labels, dimension = len(file.task.labels), file.fitted_on.dimension
    shapes = {"weight": (labels, dimension), "bias": (labels,)}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != shapes or any(tensor.dtype != np.float32 for tensor in tensors.values()):
        raise HeadError(f"{path} holds {shortened(str(found))}; expected float32 of {shapes}")
    if not all((np.abs(tensor) <= _LARGEST).all() for tensor in tensors.values()):
        raise HeadError(f"{path} holds undefined numbers, or some above {_LARGEST:g}")
    return FittedHead(file, tensors["weight"], tensors["bias"])


def _bytes_of(path: Path, most: int) -> bytes:
    """The file's content.

    Raises:
        FileNotFoundError: there is none.
        HeadError: it cannot be read, is no file of bytes, or is larger than `most`.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise HeadError(f"{path} is no regular file")
            content = file.read(most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableHeadError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise HeadError(f"{path} is larger than {most} bytes")
    return content


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for who would write into a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _seal(described: dict[str, Any]) -> str:
    rest = {key: value for key, value in described.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """While this is open nobody else writes to the folder, or deletes what was just written."""
    with (folder / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
