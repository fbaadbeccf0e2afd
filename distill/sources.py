"""Where an encoder's files lie: a folder, a hub id, or a part of a sentence-transformers folder."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.utils import cached_file, logging

from app.errors import LightMBERTError


class EncoderError(LightMBERTError):
    """An encoder cannot be loaded, or is of a family not known here."""

    code = "bad_encoder"


@dataclass(frozen=True)
class Source:
    """A folder or hub id, and the folder in it that holds the encoder."""

    name: str
    subfolder: str = ""

    def file(self, name: str) -> Path | None:
        """Path of one of its files, fetched if need be; None where there is none."""
        try:
            found = cached_file(self.name, name, subfolder=self.subfolder)
        except (OSError, ValueError):
            return None
        return found and Path(found)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn what reading an encoder can raise into EncoderError, without transformers' warnings.

    They list the layers left out, which is what `layers` asked for; what lacks is refused.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            # ModernBERT's module loads torch's compiler, which says that it is old
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EncoderError(
            f"{name} is no encoder folder and no hub id that can be read: {error}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def source_of(name: str) -> Source:
    """Where the encoder called `name` lies.

    A sentence-transformers folder lists its modules: the transformer's folder is taken from
    there. Students pool by the mean, so what such a folder does after the transformer must be a
    mean; a normalisation behind it changes nothing that is compared here.

    Raises:
        EncoderError: it pools otherwise, or has a module that changes embeddings.
    """
    whole = Source(name)
    if (listed := whole.file("modules.json")) is None:
        return whole
    modules = _read(listed)
    kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    if strange := kinds.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise EncoderError(f"{name} has a module {min(strange)}, which a mean cannot stand for")
    if "Transformer" not in kinds:
        raise EncoderError(f"{name} lists no transformer in its modules.json")
    if "Pooling" in kinds:
        _check_pooling(Source(name, kinds["Pooling"]))
    inner = kinds["Transformer"]
    if inner and Path(name).is_dir():
        return Source(str(Path(name) / inner))
    return Source(name, inner)


def _check_pooling(pooling: Source) -> None:
    if (found := pooling.file("config.json")) is None:
        raise EncoderError(f"{pooling.name} lacks {pooling.subfolder}/config.json")
    settings = _read(found)
    modes = {key.removeprefix("pooling_mode_") for key, on in settings.items() if on is True}
    modes |= {settings.get("pooling_mode")} - {None}
    ways = modes - {"include_prompt"}
    if not ways <= {"mean", "mean_tokens"} or not ways:
        raise EncoderError(
            f"{pooling.name} pools by {', '.join(sorted(ways)) or 'nothing'}; students pool by "
            "the mean, so only a mean can be matched"
        )


def _read(path: Path) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} is not JSON: {error}") from error
