"""A progress bar for the library's callbacks.

It shows no file names, as they may be patients' names.
"""

import contextlib
import sys

import tqdm


@contextlib.contextmanager
def bar(unit):
    """Gives a callback (done, total) -> None, or for files (number, files, done, total) -> None.

    The bar appears at the first call, so that an error before it is a line alone.
    """
    with contextlib.ExitStack() as stack:
        shown = None

        def tell(*numbers):
            nonlocal shown
            *file, done, total = numbers
            if shown is None:
                shown = stack.enter_context(tqdm.tqdm(unit=unit, file=sys.stderr, total=total))
            shown.total = total
            if file:
                shown.set_description("{} of {}".format(*file), refresh=False)
            shown.n = done
            shown.refresh()

        yield tell


say = tqdm.tqdm.write  # prints a line above a bar
