"""The critic's constraints, and what it learns when it is trained alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.liver import get_config
from jax_pix2pix import adversarial
from jax_pix2pix.runs.workdir import build_system


def _liver(variant="", **fields):
    config = get_config(variant)
    config.dtype = "float32"  # tests ask for less explicitly
    config.data.image_size = 32
    config.data.batch_size = 4
    config.steps_per_epoch = 1000
    config.generator.width = config.discriminator.width = 8
    config.update_from_flattened_dict(fields)
    return build_system(config)


def _batch():
    rng = np.random.default_rng(0)
    labels = np.zeros((4, 32, 32, 1), np.uint8)
    labels[:, 8:24, 6:20] = 1
    hu = (40 * rng.standard_normal(labels.shape) + 60 * labels).astype(np.int16)
    return {"source": hu, "target": labels}


def _state(system):
    return jax.jit(lambda: adversarial.create_state(system, jax.random.key(0), _batch()))()


def _distances(system, steps):
    """The feature distance of one fixed fake while only D is trained, and D at the end."""
    batch = _batch()
    state = _state(system)
    source, target = system.normalise(batch)
    fake = adversarial.generate(system, state.generator, source)

    @jax.jit
    def step(d):
        def loss(params):
            stats = d.batch_stats

            def discriminate(source, image):
                nonlocal stats
                variables = {"params": params, "batch_stats": stats}
                features, updates = system.discriminator.apply(
                    variables, source, image, train=True, mutable=["batch_stats"]
                )
                stats = updates["batch_stats"]
                return features

            value, metrics = system.discriminator_loss(discriminate, source, target, fake, None)
            return value, (metrics, stats)

        gradients, (metrics, stats) = jax.grad(loss, has_aux=True)(d.params)
        updates, opt_state = system.discriminator_optimizer.update(gradients, d.opt_state, d.params)
        params = jax.tree.map(jnp.add, d.params, updates)
        return adversarial.Network(params, stats, opt_state), abs(metrics["loss_D"])

    d, distances = state.discriminator, []
    for _ in range(steps):
        d, distance = step(d)
        distances.append(float(distance))
    return distances, d


@pytest.mark.slow
@pytest.mark.parametrize(
    ("constraint", "norm"), [("spectral", "batch"), ("spectral", "instance"), ("clip", "batch")]
)
def test_the_distance_grows_when_only_the_critic_is_trained(constraint, norm):
    fields = {"discriminator.constraint": constraint, "discriminator.norm": norm}
    distances, d = _distances(_liver(**fields), 150)
    # The first update clips initial weights that exceed the limit.
    assert distances[-1] > 1.5 * distances[1]
    if constraint == "clip":
        bounds = [float(jnp.abs(x).max()) for x in jax.tree.leaves(d.params)]
        assert max(bounds) <= 0.05 + 1e-7 and max(bounds) > 0.049


@pytest.mark.slow
@pytest.mark.long
def test_with_clipped_weights_the_distance_levels_off():
    distances, _ = _distances(_liver(), 1200)
    assert distances[599] > 10 * distances[1]
    assert distances[1199] < 1.1 * distances[599]


@pytest.mark.slow
def test_as_published_it_shrinks():
    distances, _ = _distances(_liver("as_published"), 150)
    assert distances[-1] < 0.5 * distances[0]


@pytest.mark.slow
def test_spectral_norm_bounds_the_largest_singular_value():
    _, d = _distances(_liver(**{"discriminator.constraint": "spectral"}), 60)
    for level in range(3):
        kernel = np.asarray(d.params[f"level_{level}"]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
        stats = d.batch_stats[f"spectral_norm_{level}"]
        assert stats[f"level_{level}/kernel/sigma"] == pytest.approx(largest, rel=0.02)


def test_what_lies_outside_of_the_mask_changes_nothing():
    system = _liver()
    batch = _batch()
    state = _state(system)
    source, target = system.normalise(batch)
    variables = {
        "params": state.discriminator.params,
        "batch_stats": state.discriminator.batch_stats,
    }

    def features(source):
        return system.discriminator.apply(variables, source, target, train=False)

    outside = jnp.where(target > 0, source, 0.7)
    jax.tree.map(np.testing.assert_array_equal, features(source), features(outside))
    inside = jnp.where(target > 0, 0.7, source)
    assert all(
        jnp.abs(a - b).max() > 1e-4 for a, b in zip(features(source), features(inside), strict=True)
    )
    assert [x.shape for x in features(source)] == [(4, 8, 8, 8), (4, 8, 8, 16), (4, 8, 8, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [pytest.param(1, marks=pytest.mark.long), 3])
def test_a_step_in_bfloat16_is_near_one_in_float32(classes):
    variant = "tumour" if classes == 3 else ""
    metrics = {}
    for dtype in ("float32", "bfloat16"):
        system = _liver(variant, dtype=dtype)
        state = _state(system)
        source, _ = system.normalise(_batch())
        fake = adversarial.generate(system, state.generator, source)
        assert fake.dtype == jnp.float32 and fake.shape == (4, 32, 32, classes)
        assert float(fake.min()) >= 0 and float(fake.max()) <= 1
        step = jax.jit(functools.partial(adversarial.train_step, system))
        new, metrics[dtype] = step(state, _batch(), jax.random.key(1))
        assert {x.dtype for x in jax.tree.leaves(new.generator.params)} == {jnp.dtype("float32")}
    for name in ("loss_G", "l1", "feature_distance"):
        full, half = (float(metrics[dtype][name]) for dtype in ("float32", "bfloat16"))
        assert half != full and half == pytest.approx(full, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"discriminator.constraint": "gradient"}, 'constraint is "gradient"'),
        ({"generator.output": "tanh"}, 'output is "tanh"'),
        ({"generator.output": "relu", "generator.classes": 3}, "one class"),
        ({"data.image_size": 40}, "does not halve 4 times"),
        ({"loss.critic": "sharpen"}, 'critic is "sharpen"'),
        ({"loss.clip": 0.0, "discriminator.constraint": "clip"}, "clip=0.0"),
        ({"evaluation.regions.liver": ()}, r"regions.liver is \(\): use labels from 1 to 255"),
        ({"evaluation.regions.liver": (300,)}, "regions.liver is .*: use labels from 1 to 255"),
        (
            {"generator.classes": 2, "evaluation.regions.liver": (1, 2)},
            "regions.liver is .*: use labels from 1 to 1",
        ),
        ({"evaluation.per": "patient"}, 'per is "patient"'),
        ({"evaluation.threshold": 1.0}, "threshold=1.0"),
    ],
)
def test_a_bad_field_is_named(fields, message):
    batch = _batch() if "data.image_size" not in fields else None
    with pytest.raises(ValueError, match=message):
        system = _liver(**fields)
        batch = batch or {k: np.zeros((1, 40, 40, 1), np.int16) for k in ("source", "target")}
        adversarial.create_state(system, jax.random.key(0), batch)
