"""Lines of logging intervals, also for runs that were interrupted inside an interval."""

import jax
import numpy as np
import pytest

from jax_pix2pix.logs.averages import Averages, batch_ids
from jax_pix2pix.logs.clock import Clock
from jax_pix2pix.logs.logbook import Logbook
from jax_pix2pix.logs.metrics_log import read_metrics
from jax_pix2pix.sharding import batch_sharding, make_mesh
from tests import commands
from tests.tiny import tiny_config


def _train(workdir, first, last, keep=()):
    """Runs steps of a loop without networks; their metrics include NaN and skips."""
    config = tiny_config()
    config.log_every_steps, config.epochs, config.steps_per_epoch = 10, 2, 15
    config.max_skipped = 10
    clock = Clock()
    clock.book("startup")
    log = Logbook(str(workdir), first - 1, 30, 15, clock)
    averages = Averages(log, config, clock)
    for step in range(first, last + 1):
        skipped = np.float32(step in (12, 19))
        loss = np.float32(np.nan if skipped else 0.1 + step / 3)
        metrics = {"loss_G": loss, "skipped_D": skipped, "skipped_G": np.float32(0)}
        averages.add(step, metrics, np.array([step]))
        if step in keep:
            averages.keep(step)
    averages.flush()
    log.close()


@pytest.mark.parametrize(("stop", "goes_on_from"), [(17, 17), (19, 17), (28, 24), (20, 20)])
def test_a_line_does_not_show_where_the_run_was_interrupted(tmp_path, stop, goes_on_from):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    _train(whole, 1, 30, keep=(4, 17, 24))
    _train(stopped, 1, stop, keep=(4, 17, 24))
    _train(stopped, goes_on_from + 1, 30)
    lines = commands.metrics(whole)
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[1]["skipped_D"] == 2
    assert lines[0]["loss_G"] == pytest.approx(0.1 + 5.5 / 3)
    assert commands.metrics(stopped) == lines


def test_speed_is_of_the_steps_of_this_process(tmp_path):
    _train(tmp_path, 1, 17, keep=(17,))
    _train(tmp_path, 18, 20)
    (line,) = [x for x in read_metrics(str(tmp_path)) if (x["step"], x["split"]) == (20, "train")]
    (spent,) = [
        x for x in read_metrics(str(tmp_path)) if (x["step"], x["split"]) == (20, "seconds")
    ]
    seconds = sum(spent["seconds"].get(kind, 0.0) for kind in ("input", "step"))
    assert line["images_per_second"] == pytest.approx(3 * 8 / seconds, rel=0.05)


def test_batch_ids_do_not_depend_on_devices_but_on_examples_and_their_order():
    index = np.random.default_rng(0).integers(0, 1000, (8, 3))
    ids = int(batch_ids(index))
    for devices in (2, 8):
        placed = jax.device_put(index, batch_sharding(make_mesh(1, 8, devices)))
        assert int(batch_ids(placed)) == ids
    others = [index[::-1], index + 1, np.roll(index, 1), index[:, ::-1]]
    assert len({ids, *(int(batch_ids(other)) for other in others)}) == 5
