"""Host memory that nothing uses any more."""

import ctypes
import platform


def release_freed():
    """Gives what is freed back to the system: glibc keeps it.

    After compiling the flagship that is half a gigabyte, which a step then needs beside.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
