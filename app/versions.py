"""The versions of this project and of what decides its numbers."""

from contextlib import suppress
from functools import cache
from importlib import metadata

from app.runtime.providers import onnxruntime_version

_PACKAGES = ("lightmbert", "fastapi", "numpy", "tokenizers")


@cache  # they are read from disk, which takes milliseconds, and whoever asks for /info needs no key
def versions() -> dict[str, str]:
    """Of those packages that are installed; onnxruntime also comes as onnxruntime-gpu."""
    found = {"onnxruntime": onnxruntime_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@cache
def own_version() -> str:
    try:
        return metadata.version("lightmbert")
    except metadata.PackageNotFoundError:
        return "(not installed)"
