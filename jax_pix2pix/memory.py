"""Host memory that is no longer used."""

import ctypes
import platform


def release_freed():
    """Returns freed memory to the system; glibc keeps it otherwise.

    After compiling the flagship that is half a gigabyte, on top of what a step needs.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
