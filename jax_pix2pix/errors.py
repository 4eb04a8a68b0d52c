"""Errors that a user can mend. Each message is one line: what is wrong, where, and what to do."""

EXIT_RESTART = 42  # exit code of a process that a launcher should restart; other errors exit with 1
EXIT_INTERRUPTED = 130  # of one that got Ctrl-C, as a shell reports it


class ConfigError(ValueError):
    """A config names something that does not exist or does not fit."""


class DataError(ValueError):
    """Data that cannot be used. The message is one line: the file, what is wrong, what to do."""


class WorkdirError(ValueError):
    """A working directory does not hold what was asked of it."""


class UnreachableError(WorkdirError):
    """A workdir's store cannot be reached now; a restart may reach it."""


class TrainingError(ArithmeticError):
    """Training itself went wrong: a restart would repeat it."""


class BenchmarkError(RuntimeError):
    """Something cannot be measured here."""


def lookup(table, field, name):
    """table[name]; the name is the value of config.<field>."""
    if name not in table:
        raise ConfigError(f'config.{field} is "{name}": use one of {", ".join(table)}')
    return table[name]
