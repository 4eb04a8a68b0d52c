"""Errors that a user can mend. Each message is one line: what is wrong, where, and what to do."""

EXIT_RESTART = 42  # of a process that a launcher should start again; other errors end with 1


class ConfigError(ValueError):
    """A config names something that does not exist or does not fit."""


class WorkdirError(ValueError):
    """A working directory does not hold what was asked of it."""


class UnreachableError(WorkdirError):
    """A workdir's store cannot be reached now: a restart may."""


class TrainingError(ArithmeticError):
    """Training itself went wrong: a restart would repeat it."""


class BenchmarkError(RuntimeError):
    """Something cannot be measured here."""


def chosen(table, field, name):
    """table[name], where config.<field> is the name."""
    if name not in table:
        raise ConfigError(f'config.{field} is "{name}": use one of {", ".join(table)}')
    return table[name]
