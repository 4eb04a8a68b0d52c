"""Measures how fast training reads a prepared data set that lies in a store.

    python -m launch.benchmark.store --config=CONFIG --config.data.data_dir=s3://BUCKET/data

prints how many examples a second the first of --hosts reads, of records that stay in the store and
of a copy, which has to fit on the disk. The first batches of both are compared bit for bit. A store
on the same machine tells what the processor takes, and nothing of a network.
"""

import itertools
import time

import numpy as np
from absl import flags
from ml_collections import config_flags

from input_pipeline import prepared
from input_pipeline.dataset import Dataset
from jax_pix2pix import config_fields
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.runs.stores import storage
from launch.benchmark import meter, report
from launch.process import command

_CONFIG = config_flags.DEFINE_config_file("config", None, "the config: NAME or file.py, [:variant]")
_HOSTS = flags.DEFINE_integer("hosts", 1, "hosts that share each batch", 1)
_SECONDS = flags.DEFINE_float("seconds", 10.0, "for which each way reads", 0.1)
flags.mark_flags_as_required(["config"])

COMPARED = 3  # batches


def main():
    config_fields.check(_CONFIG.value.to_dict())
    data = _CONFIG.value.data
    if not storage.is_remote(data.data_dir):
        raise ConfigError(f"config.data.data_dir={data.data_dir}: name the url of a store")
    machine = report.machine()
    print(f"{machine['cores']} cores of {machine['cpu']}", flush=True)
    first = []
    prepared.ensure_prepared(data)  # an embedded sample may not be there yet
    for way in ("stream", "copy"):
        data.from_store = way
        dataset, start = Dataset(data, prepare=True), time.monotonic()
        dataset.check_training()
        opened = time.monotonic() - start

        def batches(step, dataset=dataset):
            return dataset.train_batches(step, 2 * meter.FAR, 0, _HOSTS.value)

        first.append(list(itertools.islice(batches(0), COMPARED)))
        rows = data.batch_size // _HOSTS.value
        found = meter.measure(batches, [meter.FAR], _SECONDS.value, rows)
        print(
            f"{way:8} {found['pairs_per_second']:10,.0f} examples/s "
            f"{found['pairs_per_cpu_second']:10,.0f} per CPU second, opened in {opened:.1f} s",
            flush=True,
        )
    for streamed, copied in zip(*first, strict=True):
        for name, x in copied.items():
            np.testing.assert_array_equal(streamed[name], x, err_msg=name)
    print(f"the first {COMPARED} batches are equal")


if __name__ == "__main__":
    command.run(main)
