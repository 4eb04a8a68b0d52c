"""What the library tells its user: commands print all of it, a notebook shows the warnings.

To see the rest in a notebook too: ``logging.getLogger("jax_pix2pix.messages").setLevel("INFO")``.
"""

import logging
import sys


class _Terminal(logging.Handler):
    """Prints a line of information to stdout, and warnings to stderr."""

    def emit(self, record):
        if record.levelno >= logging.WARNING:
            print(f"warning: {record.getMessage()}", file=sys.stderr, flush=True)
        else:
            print(record.getMessage(), flush=True)


messages = logging.getLogger("jax_pix2pix.messages")
messages.propagate = False  # a run's own log is `process_log`
messages.setLevel(logging.WARNING)
messages.addHandler(_Terminal())


def show_all():
    """Prints information too, as commands do."""
    messages.setLevel(logging.INFO)
