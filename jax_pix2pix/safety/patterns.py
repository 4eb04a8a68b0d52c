"""Regular expressions that users or configs give."""

import re


def compiled(pattern):
    """A pattern whose group 1 is what is looked for, such as a patient. -> re.Pattern

    Raises:
        ValueError: it is no regular expression, is beyond what can be compiled, or has no group.
            The text does not name it.
    """
    try:
        found = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"it is no pattern that can be used ({error})") from None
    if not found.groups:
        raise ValueError("it has no group: put (...) about the patient")
    return found
