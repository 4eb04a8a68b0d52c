"""A plugin that tells where a session of tests spends its time; .ci/run turns it on.

    python -m pytest -p tests.durations --durations_file=FILE --begun=$(date +%s)

A test's time includes the fixtures that it is the first to need.
"""

import collections
import time

SLOWEST = 50
BUDGET_MINUTES = 50  # for all that .ci/run does


def pytest_addoption(parser):
    parser.addoption("--durations_file", help="gets a line a test: seconds, tab, name; appended to")
    parser.addoption("--begun", type=int, help="when .ci/run began, in seconds since the epoch")


def pytest_terminal_summary(terminalreporter, config):
    if hasattr(config, "workerinput"):  # the process that started the workers has all reports
        return
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                seconds[report.nodeid] += report.duration
    with open(config.getoption("durations_file"), "a", encoding="utf-8") as file:
        file.writelines(f"{spent:.3f}\t{name}\n" for name, spent in seconds.most_common())
    terminalreporter.section("time")
    for line in table(seconds):
        terminalreporter.write_line(line)
    if warning := over_budget(time.time() - config.getoption("begun")):
        terminalreporter.write_line(warning, yellow=True)


def table(seconds):
    """Yields lines of the slowest tests, then of the sums of folders. seconds: {name: float}."""
    sums, counts = collections.Counter(), collections.Counter()
    for name, spent in seconds.items():
        folder = name.split("::")[0].rpartition("/")[0]
        sums[folder] += spent
        counts[folder] += 1
    for name, spent in collections.Counter(seconds).most_common(SLOWEST):
        yield f"{spent:8.1f} s  {name}"
    for folder, spent in sums.most_common():
        yield f"{spent:8.1f} s  {folder}/, {counts[folder]} tests"


def over_budget(seconds):
    """A warning for a run of so many seconds, or None."""
    if seconds <= 60 * BUDGET_MINUTES:
        return None
    return (
        f"warning: {seconds / 60:.0f} minutes so far, of the {BUDGET_MINUTES} that .ci/run may "
        "take: CONTRIBUTING.md says what a test may cost"
    )
