"""The order of training examples, as a pure function of seed and step."""

from typing import Any

from input_pipeline.tf_cpu import tf
from jax_pix2pix.errors import DataError


def steps_per_epoch(num_examples, batch_size):
    """Whole batches in one pass over the examples.

    Raises:
        DataError: batch_size is below 1 or exceeds num_examples.
    """
    if not 0 < batch_size <= num_examples:
        raise DataError(
            f"config.data.batch_size is {batch_size}, with {num_examples} training examples: "
            "use 1 to that many"
        )
    return num_examples // batch_size


def global_indices(seed, step, batch_size, num_examples):
    """Indices of the examples of a step's global batch, in O(batch_size).

    Every epoch is another permutation of the examples. Its last num_examples % batch_size are left
    out, so each epoch leaves out others.

    Args:
        seed: integer.
        step: integer, or a scalar tensor in tf.data.

    Returns:
        int64 [batch_size], distinct, in [0, num_examples).

    Raises:
        DataError: as in `steps_per_epoch`.
    """
    steps = steps_per_epoch(num_examples, batch_size)
    step = tf.cast(step, tf.int64)
    index = step % steps * batch_size + tf.range(batch_size, dtype=tf.int64)
    # index_shuffle uses only the low bits of its seed: 8 of each element up to 65,536 examples.
    # With [seed, epoch] it would repeat every 256 epochs, so shuffle twice, with hashed seeds.
    epoch_seed = tf.stack([tf.cast(seed, tf.int64), step // steps])
    any_integer: Any = None  # no lower and upper bound
    keys = tf.random.stateless_uniform(
        [2, 2], epoch_seed, any_integer, any_integer, tf.int32, alg="philox"
    )
    for key in tf.unstack(keys):
        index = tf.random.experimental.index_shuffle(index, key, max_index=num_examples - 1)
    return index
