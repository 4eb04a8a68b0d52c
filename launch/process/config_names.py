"""Configs by name: --config=mri2ct:quickstart, wherever a command is started."""

import os
import re
from importlib import util

from jax_pix2pix.errors import ConfigError


def with_paths(argv):
    """The arguments, with each config's name replaced by the path of its file.

    A name is a word that has neither a slash nor an ending. It is looked up in configs/ of the
    current folder, then in the installed package.

    Raises:
        ConfigError: neither has it.
    """
    argv = list(argv)
    for number, argument in enumerate(argv):
        if argument == "--":
            break
        if match := re.fullmatch(r"(--?config=)(\w+)(:.*)?", argument):
            flag, name, variant = match.groups()
            argv[number] = f"{flag}{_path(name)}{variant or ''}"
        elif argument in ("--config", "-config") and number + 1 < len(argv):
            if match := re.fullmatch(r"(\w+)(:.*)?", argv[number + 1]):
                argv[number + 1] = f"{_path(match[1])}{match[2] or ''}"
    return argv


def _path(name):
    here = os.path.join("configs", f"{name}.py")
    if os.path.exists(here):
        return here
    installed = util.find_spec("configs")
    folder = os.path.dirname(installed.origin) if installed and installed.origin else ""
    path = os.path.join(folder, f"{name}.py")
    if not folder or name.startswith("_") or not os.path.exists(path):
        known = sorted(
            found.removesuffix(".py")
            for found in (os.listdir(folder) if folder else ())
            if found.endswith(".py") and found not in ("__init__.py", "base.py")
        )
        raise ConfigError(
            f"--config={name}: there is no {here}, and no such config in the package: use the path "
            f"of a file, or one of {', '.join(known)}"
        )
    return path
