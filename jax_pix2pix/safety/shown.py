"""Text from elsewhere as it is shown, on one line and without effects on what shows it.

Names of patients and files, labels, titles and values of configs may hold escape sequences, which
command a terminal, newlines, which pass for lines of ours, marks that turn the direction of
writing, characters that nobody sees, so that two names look alike, and bytes that are no UTF-8,
which Python keeps as surrogates and no file takes.
"""

import re

from jax_pix2pix.errors import DataError

# Control characters, marks of direction, separators of lines, surrogates.
_ACTING = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
# Without a width: soft hyphen, fillers, spaces and joiners of none, tags.
_UNSEEN = (
    r"\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
    r"\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Joiners belong to Persian, the scripts of India and emoji, and after ASCII to nothing.
_JOINER = r"(?<![^\x00-\x7f])[\u200c\u200d]"
_IN_A_LINE = re.compile(rf"[\t\n{_ACTING}{_UNSEEN}]|{_JOINER}")
_IN_LINES = re.compile(rf"[{_ACTING}{_UNSEEN}]|{_JOINER}")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def shown(text):
    r"""The text with characters that act or are not seen as escapes, \x1b for instance.

    A byte that is no UTF-8 is shown as that byte, \xff for instance. Other text stays as it is.
    """
    return _IN_A_LINE.sub(_escape, str(text))


def shown_lines(text):
    """Text of several lines as `shown` shows each; tabs stay."""
    return _IN_LINES.sub(_escape, text)


def is_plain(text):
    """Whether the text is shown as it is."""
    return not _IN_A_LINE.search(text)


def check_name(path):
    """Raises DataError if a path could not be shown or written as it is."""
    if not is_plain(path):
        raise DataError(
            f"{shown(path)}: a name with control characters, characters that are not seen or bytes "
            "that are no UTF-8, shown here as \\x.. or \\u....: rename it"
        )


def code(text):
    """The text as code within a line of Markdown."""
    text = shown(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


class ShownStream:
    r"""A text stream that shows all that is written to it, also what its encoding lacks.

    A progress bar's \r passes.
    """

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        text = "\r".join(map(shown_lines, text.split("\r")))
        encoding = self._stream.encoding or "utf-8"
        return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name):
        return getattr(self._stream, name)


def _escape(match):
    character = match[0]
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte, as `surrogateescape` keeps it
        number -= 0xDC00
    escape = f"\\x{number:02x}" if number < 2**8 else f"\\u{number:04x}"
    return _SHORT.get(character) or (escape if number < 2**16 else f"\\U{number:08x}")
