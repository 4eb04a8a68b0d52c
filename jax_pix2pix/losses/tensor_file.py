"""Reads safetensors files of unknown origin: nothing in them is run, and their size has a limit."""

import os

import safetensors

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.safety import safe_files

MAX_BYTES = 2**31  # limit of a file's size; all of VGG16 has 553 MB
MAX_HEADER = 2**22  # bytes of the description, which grows when it is parsed; VGG16's has 4 kB


def read_tensors(path, shown, wanted=None, limit=MAX_BYTES):
    """Reads tensors by name.

    Args:
        shown: the path as errors name it, with the config's field.
        wanted: names to read; the others are skipped. None reads all.
        limit: bytes of the file.

    Returns:
        ({name: NumPy array}, {key: text} of the metadata).

    Raises:
        ConfigError: the file cannot be read, or is too large.
    """
    try:
        with safe_files.open_to_read(path) as opened:
            size = os.fstat(opened.fileno()).st_size
            header = int.from_bytes(opened.read(8), "little")
            if size > limit:
                raise ConfigError(f"{shown} has {size} bytes, above the limit of {limit}")
            if header > MAX_HEADER:
                raise ValueError(f"its header claims {header} bytes, above the limit")
            own = safe_files.path_of(opened.fileno(), path)
            with safetensors.safe_open(own, framework="numpy") as file:
                names = [name for name in file.keys() if wanted is None or name in wanted]
                return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except ConfigError:
        raise
    except Exception as error:  # TypeError for types that NumPy lacks, and others
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{shown} cannot be read as safetensors ({reason})") from error
