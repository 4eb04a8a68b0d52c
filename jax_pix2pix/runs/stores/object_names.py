"""Names of objects in a store that become files here. Anybody who can write there chooses them."""

import itertools
import os

from jax_pix2pix.errors import DataError
from jax_pix2pix.safety import safe_files

MAX_PART = 255  # bytes of a file's name, on all file systems in common use


def checked(url, sizes):
    """The objects below a url, {name: bytes}, without markers of folders.

    Raises:
        DataError: one cannot be a file of its own below a folder.
    """
    # Consoles of stores mark a folder by an object without content.
    found = {name: size for name, size in sizes.items() if name and (size or name[-1] != "/")}
    for name in found:
        if problem := _problem(name, found):
            raise DataError(
                f"{url}: {problem}: delete that object, or download by hand what you need"
            )
    return found


def _problem(name, found):
    try:
        safe_files.inside("", name)
    except ValueError as error:
        return str(error)
    if any(len(os.fsencode(part)) > MAX_PART for part in name.split("/")):
        return f"the name {name[:80]!a}... is too long for a file"
    for parent in itertools.accumulate(name.split("/")[:-1], "{}/{}".format):
        if parent in found:
            return f"{parent[:200]!a} is an object, and {name[:200]!a} needs a folder of that name"
    return None
