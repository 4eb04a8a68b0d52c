"""The file of all values that evaluations write."""

import json

from launch.process.remote_workdir import as_given


def write(path, results):
    """Writes results, without NaN, as JSON and says where."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=2, allow_nan=False)
    print(f"protocols and all values: {as_given(path)}")
