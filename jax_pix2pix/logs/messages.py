"""What the library tells its user: commands print all of it, a notebook shows the warnings.

To see the rest in a notebook too: ``logging.getLogger("jax_pix2pix.messages").setLevel("INFO")``.
"""

import logging
import sys
import warnings

from jax_pix2pix.safety.redaction import redacted
from jax_pix2pix.safety.shown import shown, shown_lines


class _Terminal(logging.Handler):
    """Prints a line of information to stdout, and warnings to stderr."""

    def emit(self, record):
        text = redacted(record.getMessage())
        if record.levelno >= logging.WARNING:
            print(f"warning: {shown(text)}", file=sys.stderr, flush=True)
        else:
            print(shown_lines(text), flush=True)


_terminal = _Terminal()
messages = logging.getLogger("jax_pix2pix.messages")
messages.propagate = False  # a run's own log is `process_log`
messages.setLevel(logging.WARNING)
messages.addHandler(_terminal)


_warned = set()


def warn_once(kind, text):
    """Warns of the first of many files; `kind` is what they have in common."""
    if kind not in _warned:
        _warned.add(kind)
        messages.warning(text)


def show_all():
    """Prints information too, as commands do."""
    messages.setLevel(logging.INFO)


def show_in_log_only():
    """Writes all of it, and Python's warnings, to the run's log alone.

    For processes other than the first, which would say once more what the first one says.
    """
    messages.removeHandler(_terminal)
    messages.propagate = True

    def show(message, category, filename, lineno, *_):
        messages.warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)

    warnings.showwarning = show
