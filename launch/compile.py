"""Compiles a training step for TPUs and estimates its cost on them, without any TPU.

    python -m launch.compile --config=configs/lidc_mask2ct.py --topology=v5e:16x16
    python -m launch.compile --config=… --topology=v5e:2x2 --fit --output=FILE.json

Prints, and writes as JSON, the memory of a chip, operations and bytes, every collective, and an
estimate of the step's time from the chip's peaks (launch/estimate/roofline.py). Needs the extra
"tpu".
config.data.batch_size is the batch over all chips. --fit compiles with more and fewer images per
chip until it has the largest batch that fits. For a pyramid the step is that of
config.pyramid.scale.
"""

import datetime
import json
import sys

from absl import flags
from ml_collections import config_flags

from launch.benchmark import options
from launch.estimate import chips
from launch.estimate.largest_batch import fitting, largest
from launch.estimate.program_table import table
from launch.process import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "a run's config, file.py[:variant]")
_TOPOLOGY = flags.DEFINE_string("topology", None, f"a slice of TPUs: {chips.EXAMPLES}")
_FIT = flags.DEFINE_bool("fit", False, "find the largest batch that fits")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for all figures")
flags.mark_flags_as_required(["config", "topology"])


def main():
    config, topology = _CONFIG.value, chips.topology(_TOPOLOGY.value)
    if _OUTPUT.value:
        options.claim(_OUTPUT.value)
    program = largest(config, topology) if _FIT.value else fitting(config, topology)
    if _OUTPUT.value:
        record = {
            "command": ["python", "-m", "launch.compile", *sys.argv[1:]],
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "config": json.loads(config.to_json()),
            **program,
        }
        options.save(_OUTPUT.value, record)
    print(table(program))
    if _OUTPUT.value:
        print(f"\nall figures: {_OUTPUT.value}")


if __name__ == "__main__":
    command.run(main)
