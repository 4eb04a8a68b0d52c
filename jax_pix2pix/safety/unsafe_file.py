"""The error of a file that is of no kind that can be used."""

import errno


class UnsafeFileError(OSError):
    """A file is not of a kind that can be used; the text says which and what to do."""

    def __str__(self):
        return f"{self.filename} {self.strerror}"


def link(path):
    return UnsafeFileError(
        errno.ELOOP, "is a link, which may lead anywhere: put what it leads to in its place", path
    )


def special(path):
    return UnsafeFileError(
        errno.EINVAL, "is no regular file, but a folder, pipe, socket or device: remove it", path
    )
