"""Give memory that loading took and no longer needs back to the system."""

import ctypes
import sys


def give_back() -> None:
    """Where the C library can: glibc keeps what was freed between what is still in use."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
