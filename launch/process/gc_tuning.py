"""No looking for garbage among what a command imports: a million objects that stay to its end.

It would take a third of the time from a command's start to its first flag, and a second at its end.
"""

import gc

_USUAL = gc.get_threshold()


def expect_imports():
    """From here on a search comes after 20,000 new objects instead of Python's 700."""
    gc.set_threshold(20_000, 20, 20)


def leave_imports_alone():
    """Whatever there is by now is never looked at again; what comes is, as ever."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
