"""The order of training examples."""

import time

import numpy as np
import pytest

from input_pipeline.order import global_indices, steps_per_epoch
from input_pipeline.tf_cpu import tf
from jax_pix2pix.errors import DataError


def epoch(seed, number, batch_size, examples):
    steps = examples // batch_size
    batches = [
        global_indices(seed, step, batch_size, examples).numpy()
        for step in range(number * steps, (number + 1) * steps)
    ]
    return np.concatenate(batches)


@pytest.mark.parametrize(("batch_size", "examples"), [(4, 12), (5, 23), (1, 3), (7, 7), (64, 1000)])
def test_an_epoch_has_no_example_twice(batch_size, examples):
    seen = epoch(0, 0, batch_size, examples)
    assert len(set(seen)) == len(seen) == examples // batch_size * batch_size
    assert set(seen) <= set(range(examples))


def test_epochs_and_seeds_differ_and_drop_other_examples():
    orders = [epoch(seed, number, 5, 23) for seed in (0, 1, 256, 2**40) for number in (0, 1, 2)]
    assert len({order.tobytes() for order in orders}) == len(orders)
    dropped = {frozenset(set(range(23)) - set(order)) for order in orders[:3]}
    assert len(dropped) > 1


def test_a_thousand_epochs_differ():
    # index_shuffle alone repeats after 256.
    steps = tf.data.Dataset.range(1000).map(lambda step: global_indices(0, step, 60, 60))
    assert len({index.tobytes() for index in steps.as_numpy_iterator()}) == 1000


def test_every_example_is_about_as_likely_in_the_first_batch():
    counts = np.zeros(20)
    for number in range(500):
        counts[global_indices(3, number * 4, 5, 20).numpy()] += 1
    # 500 draws at 1/4: 125 +- 10
    assert abs(counts - 125).max() < 40


def test_golden():
    # A change here changes every run: training would resume with other batches.
    assert global_indices(0, 0, 6, 100).numpy().tolist() == [24, 69, 71, 5, 81, 98]
    assert global_indices(7, 1234, 6, 100).numpy().tolist() == [91, 8, 49, 58, 25, 69]


def test_far_steps_cost_no_more():
    global_indices(0, 0, 64, 10**6)
    begin = time.perf_counter()
    index = global_indices(0, 10**12, 64, 10**6).numpy()
    assert time.perf_counter() - begin < 0.5
    assert index.dtype == np.int64 and len(set(index)) == 64


def test_in_a_graph_as_outside():
    steps = tf.data.Dataset.range(10).map(lambda step: global_indices(1, step, 3, 10))
    for step, index in enumerate(steps.as_numpy_iterator()):
        np.testing.assert_array_equal(index, global_indices(1, step, 3, 10))


def test_batches_larger_than_the_data_set():
    assert steps_per_epoch(23, 5) == 4
    for batch_size in (24, 0, -1):
        with pytest.raises(DataError, match=r"config\.data\.batch_size"):
            global_indices(0, 0, batch_size, 23)
