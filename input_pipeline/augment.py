"""Random flips and crops, the same for every image of a pair."""

from input_pipeline.tf_cpu import tf

METHODS = {"source": "nearest", "target": "bilinear"}  # a source is a mask: classes stay classes


def augment(batch, rows, *, seed, step, batch_size, flip, load_size):
    """Flips half of the examples left to right, and crops them at random ("jitter").

    The random numbers are drawn for the whole global batch, and each host uses its rows of them,
    so an example is treated alike on any number of hosts.

    Args:
        batch: {"source", "target"}: uint8 [b, S, S, c], the rows of the global batch.
        rows: slice of the global batch, b long.
        seed, step: integers, or scalar tensors: the numbers are a function of these.
        batch_size: global.
        flip: whether to flip.
        load_size: pixels to resize to before cropping back to S, S or more; 0 crops nothing.

    Returns:
        batch, shapes and dtypes unchanged.
    """
    size = batch["source"].shape[1]
    load_size = load_size or size
    seed = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    uniform = tf.random.stateless_uniform([batch_size, 3], seed, alg="philox")[rows]
    offset = tf.cast(uniform[:, 1:, None] * (load_size - size + 1), tf.int32)
    columns = tf.range(size)
    columns = tf.where(flip & (uniform[:, :1] < 0.5), columns[::-1], columns) + offset[:, 1]
    lines = tf.range(size) + offset[:, 0]

    def take(images, pixels, method):
        """Picks pixels, [b, S], along axis 1 of the images resized to load_size."""
        if method == "nearest":
            pixels = tf.cast((tf.cast(pixels, tf.float32) + 0.5) * (size / load_size), tf.int32)
        return tf.gather(images, pixels, axis=1, batch_dims=1)

    def transform(images, method):
        if method == "bilinear" and load_size > size:
            images = tf.image.resize(images, [load_size, load_size], method)
            images = tf.cast(tf.round(images), tf.uint8)
        images = take(images, lines, method)
        # Transposed, since gathering along axis 2 is ten times slower.
        images = take(tf.transpose(images, [0, 2, 1, 3]), columns, method)
        return tf.transpose(images, [0, 2, 1, 3])

    return {key: transform(images, METHODS[key]) for key, images in batch.items()}
