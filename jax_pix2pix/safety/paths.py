"""Paths as a user writes them."""

import os


def expanded(path):
    """A path, as a string, with "~" or "~NAME" at its beginning as that home; urls stay.

    A shell does this for words of their own, but not within --output=~/results.

    Raises:
        OSError: there is no such user.
    """
    found = os.path.expanduser(os.fspath(path))
    if found.startswith("~"):
        user = found.partition("/")[0]
        raise OSError(f"{found}: {user} has no home folder here: write ./{user} for a folder")
    return found


def with_home(argument):
    """A command's argument, with the path that is its flag's value `expanded`."""
    flag, equals, value = argument.partition("=")
    return f"{flag}={expanded(value)}" if equals and value.startswith("~") else argument
