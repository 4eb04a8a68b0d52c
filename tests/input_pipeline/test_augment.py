"""Random flips and crops."""

import numpy as np
from PIL import Image

from input_pipeline import augment
from input_pipeline.tf_cpu import tf

SIZE, BATCH = 16, 32
METHODS = {"source": "nearest", "target": "bilinear"}


def pair(target=None):
    rng = np.random.default_rng(0)
    source = 127 * rng.integers(0, 3, (BATCH, SIZE, SIZE, 1))
    target = rng.integers(0, 256, (BATCH, SIZE, SIZE, 1)) if target is None else target
    return {"source": tf.constant(source, tf.uint8), "target": tf.constant(target, tf.uint8)}


def run(
    batch, rows=slice(0, BATCH), step=0, seed=0, flip=True, load_size=SIZE, resized=False, size=SIZE
):
    batch = {key: images[rows] for key, images in batch.items()}
    place = augment.draw(
        rows,
        seed=seed,
        step=step,
        batch_size=BATCH,
        size=size,
        flip=flip,
        load_size=load_size,
    )
    if resized:
        batch = augment.resize(batch, METHODS, load_size)
    out = augment.crop(batch, METHODS, **place, size=size, load_size=load_size)
    return {key: images.numpy() for key, images in out.items()}


def test_flips_half_of_the_pairs_left_to_right():
    batch = pair()
    out = run(batch)
    flipped = 0
    for i in range(BATCH):
        kinds = {
            key: next(
                kind
                for kind, expected in (("same", image), ("flipped", image[:, ::-1]))
                if np.array_equal(out[key][i], expected)
            )
            for key, image in ((key, batch[key][i].numpy()) for key in out)
        }
        assert kinds["source"] == kinds["target"]
        flipped += kinds["source"] == "flipped"
    assert 8 <= flipped <= 24


def test_crops_agree_with_tensorflows_resize():
    batch = pair()
    load = 20
    full = {
        key: tf.cast(
            tf.round(tf.cast(tf.image.resize(batch[key], [load, load], method), tf.float32)),
            tf.uint8,
        ).numpy()
        for key, method in (("source", "nearest"), ("target", "bilinear"))
    }
    out = run(batch, load_size=load)
    tolerance = {"source": 0, "target": 1}  # antialiased: halves may round the other way
    places = set()
    for i in range(BATCH):
        found = {}
        for key in full:
            found[key] = {
                (y, x, mirrored)
                for y in range(5)
                for x in range(5)
                for mirrored in (False, True)
                if np.allclose(
                    full[key][i, y : y + SIZE, x : x + SIZE][:, :: -1 if mirrored else 1],
                    out[key][i],
                    rtol=0,
                    atol=tolerance[key],
                )
            }
        both = found["source"] & found["target"]
        assert len(both) == 1  # one crop explains both images
        places |= both
    ys, xs, mirrored = map(set, zip(*places, strict=True))
    assert ys == xs == set(range(5)) and mirrored == {False, True}


def test_masks_keep_their_values():
    assert set(np.unique(run(pair(), load_size=23)["source"])) == {0, 127, 254}


def test_hosts_get_their_rows_of_the_same_result():
    whole = run(pair(), load_size=20)
    for hosts in (2, 4):
        size = BATCH // hosts
        parts = [run(pair(), slice(h * size, (h + 1) * size), load_size=20) for h in range(hosts)]
        for key in whole:
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), whole[key])


def test_resizing_first_changes_nothing():
    for size, load_size in ((16, 16), (16, 20), (16, 23), (16, 32), (8, 12)):
        now, before = (
            run(pair(), load_size=load_size, resized=x, size=size) for x in (False, True)
        )
        for key in now:
            np.testing.assert_array_equal(before[key], now[key])


def test_a_function_of_seed_and_step():
    results = [
        run(pair(), seed=seed, step=step, load_size=20)["target"].tobytes()
        for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert results[0] == results[3] and len(set(results)) == 3


def test_nothing_asked_nothing_done():
    batch = pair()
    out = run(batch, flip=False)
    for key in out:
        np.testing.assert_array_equal(out[key], batch[key])


def test_shrinking_is_antialiased_and_masks_keep_their_values():
    """Pillow's bilinear filter is the same triangle, wider by the factor."""
    target = np.random.default_rng(1).integers(-1000, 3000, (BATCH, 64, 64, 1)).astype(np.int16)
    source = 127 * np.random.default_rng(2).integers(0, 3, target.shape).astype(np.uint8)
    out = augment.resize({"source": source, "target": tf.constant(target)}, METHODS, 36)
    assert out["target"].dtype == tf.int16
    for image, resized in zip(target, out["target"].numpy(), strict=True):
        expected = Image.fromarray(image[..., 0].astype(np.float32)).resize(
            (36, 36), Image.Resampling.BILINEAR
        )
        np.testing.assert_allclose(resized[..., 0], np.asarray(expected), atol=0.51)
    assert set(np.unique(out["source"])) == {0, 127, 254}
