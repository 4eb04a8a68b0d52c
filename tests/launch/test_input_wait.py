"""input_wait, the share of time in which a device waits for its batch."""

import itertools
import json
import time

import jax
import numpy as np
import pytest

from jax_pix2pix import sharding
from jax_pix2pix.fit import Batches, fit
from jax_pix2pix.logs.averages import Averages
from jax_pix2pix.logs.clock import Clock
from jax_pix2pix.runs.workdir import build_system, example_batch
from tests.tiny import tiny_config


@pytest.mark.slow
def test_input_wait_is_the_share_of_time_in_the_iterator(tmp_path):
    config = tiny_config()
    config.data.image_size = 32
    config.generator.depth = 4
    config.steps_per_epoch, config.epochs, config.constant_epochs = 30, 1, 1
    config.log_every_steps = 10
    rows = {
        name: np.zeros((config.data.batch_size, *x.shape[1:]), x.dtype)
        for name, x in example_batch(config).items()
    }
    rows["index"] = np.arange(config.data.batch_size)

    def train_batches(start_step):
        for step in itertools.count(start_step + 1):
            # A step is flushed, and perhaps logged, when the next one has got its batch.
            time.sleep(0.5 if 12 <= step <= 21 else 0.0)
            yield rows

    def validation_batches():
        yield rows

    patients = ["patient"] * config.data.batch_size
    fit(
        build_system(config),
        config,
        sharding.make_mesh(1, config.data.batch_size),
        tmp_path,
        Batches(train_batches, validation_batches, patients, validation_batches),
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    fast, slow, fast_again = [x["input_wait"] for x in lines if x["split"] == "train"]
    assert fast < 0.1 and 0.8 < slow <= 1 and fast_again < 0.1


def test_waiting_counts_only_when_the_device_has_nothing_to_do():
    lines = []

    class Log:
        interval = ()

        def advance(self, **shown):
            pass

        def scalars(self, step, split, values, **fields):
            lines.append(values)

        def seconds(self, step):
            pass

    @jax.jit
    def slow(x):
        loss = jax.lax.fori_loop(0, 100, lambda _, y: y @ x, x).sum()
        skipped = jax.numpy.zeros(())
        return {"loss_G": loss, "skipped_D": skipped, "skipped_G": skipped}

    config = tiny_config()
    config.log_every_steps = 1
    x = jax.numpy.full((1024, 1024), 1 / 1024)
    jax.block_until_ready(slow(x))
    averages = Averages(Log(), config, Clock())
    for step in (1, 2):
        metrics = slow(x)
        averages.add(step, metrics, np.arange(2))
        if step == 2:
            jax.block_until_ready(metrics)
        with averages.waiting_for_input():
            time.sleep(0.1)
            assert metrics["loss_G"].is_ready() == (step == 2)
    averages.flush()
    busy, idle = [line["input_wait"] for line in lines]
    assert busy == 0 and idle > 0
