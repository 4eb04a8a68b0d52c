"""The table of durations that .ci/run prints."""

from tests import durations


def test_table_has_the_slowest_and_the_sums_of_folders():
    seconds = {f"tests/test_a.py::test[{number}]": float(number) for number in range(60)}
    lines = list(durations.table(seconds | {"tests/models/test_b.py::test": 2000.0}))
    assert lines[0].split() == ["2000.0", "s", "tests/models/test_b.py::test"]
    assert lines[1].split() == ["59.0", "s", "tests/test_a.py::test[59]"]
    assert len(lines) == durations.SLOWEST + 2
    assert lines[-2:] == ["  2000.0 s  tests/models/, 1 tests", "  1770.0 s  tests/, 60 tests"]


def test_a_run_over_its_budget_is_told_so():
    assert durations.over_budget(50 * 60) is None
    assert "warning: 51 minutes" in durations.over_budget(51 * 60)
