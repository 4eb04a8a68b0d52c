"""Random flips, crops and resizing, the same for both images of a pair."""

from input_pipeline.tf_cpu import tf


def draw(rows, *, seed, step, batch_size, size, flip, load_size):
    """Draws the crop and the flip of each example of a step.

    The random numbers are drawn for the whole global batch and each host takes its rows, so an
    example is augmented in the same way on any number of hosts.

    Args:
        rows: slice of the global batch, of length b.
        seed, step: integers or scalar tensors, which determine the numbers.
        batch_size: global.
        size: height and width of the crops.
        flip: whether to flip half of the examples left to right.
        load_size: height and width of the images that are cropped, size or more.

    Returns:
        {"offset": int32 [b, 2], (row, column) of the crop in the resized image; "flip": bool [b]}.
    """
    seed = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    uniform = tf.random.stateless_uniform([batch_size, 3], seed, alg="philox")[rows]
    offset = tf.cast(uniform[:, 1:] * (load_size - size + 1), tf.int32)
    return {"offset": offset, "flip": flip & (uniform[:, 0] < 0.5)}


def resize(batch, methods, size):
    """Resizes the whole images of a batch, by the method of `crop`.

    Args:
        batch: {"source", "target"}: integers [b, S, S, c].
        methods: "nearest" or "bilinear" for each of them.
        size: height and width of the result.

    Returns:
        {"source", "target"}: of the same types, [b, size, size, c].
    """
    everything = tf.tile(tf.range(size)[None], [batch["source"].shape[0], 1])
    return {
        key: images
        if images.shape[1] == size
        else _take(images, everything, everything, size, methods[key])
        for key, images in batch.items()
    }


def crop(batch, methods, offset, flip, size, load_size):
    """Resizes a batch to load_size where it has another size, then crops and flips each example.

    Args:
        batch, methods: as for `resize`.
        offset, flip: from `draw`.
        size, load_size: as for `draw`.

    Returns:
        {"source", "target"}: of the same types, [b, size, size, c].
    """
    columns = tf.range(size)
    columns = tf.where(flip[:, None], columns[::-1], columns) + offset[:, 1:]
    lines = tf.range(size) + offset[:, :1]
    return {
        key: _take(images, lines, columns, load_size, methods[key]) for key, images in batch.items()
    }


def _take(images, lines, columns, load_size, method):
    """The pixels [b, h, w, c] at lines [b, h] and columns [b, w] of the resized images.

    Bilinear resizing is antialiased: when it shrinks, its window grows with the factor.
    """
    size, dtype = images.shape[1], images.dtype
    if load_size != size and method == "bilinear":
        images = tf.image.resize(images, [load_size, load_size], method, antialias=True)
        images = tf.cast(tf.round(images), dtype)

    def take(images, pixels):
        if load_size != size and method == "nearest":
            pixels = tf.cast((tf.cast(pixels, tf.float32) + 0.5) * (size / load_size), tf.int32)
        return tf.gather(images, pixels, axis=1, batch_dims=1)

    # Transpose: gathering along axis 2 is ten times slower.
    images = tf.transpose(take(images, lines), [0, 2, 1, 3])
    return tf.transpose(take(images, columns), [0, 2, 1, 3])
