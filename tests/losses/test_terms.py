"""Losses and the learning rate against PyTorch and closed forms."""

import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import torch
from monai.losses import DiceLoss

from configs.lidc_mask2ct import get_config
from jax_pix2pix import sharding
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.losses import terms as losses
from jax_pix2pix.losses.gradient_penalties import r1_penalty
from jax_pix2pix.models.patchgan import PatchGAN
from jax_pix2pix.runs.workdir import build_system
from tests.oracle import parity
from tests.oracle.pix2pix import PatchGAN as PatchGANOracle

LOGITS = np.array([-30.0, -1.0, 0.0, 0.5, 30.0], np.float32)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_binary_cross_entropy(label):
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.full((5,), label)
    )
    np.testing.assert_allclose(losses.binary_cross_entropy(LOGITS, label), expected, rtol=1e-6)


def test_least_squares():
    logits = jnp.array([0.0, 3.0])
    assert losses.least_squares(logits, 1.0) == (1 + 4) / 2
    assert losses.least_squares(logits, 0.0) == 9 / 2


def test_hinge_has_a_margin_for_the_discriminator_and_none_for_the_generator():
    logits = jnp.array([-2.0, 0.5, 2.0])
    np.testing.assert_allclose(losses.hinge(logits, 1.0), (3 + 0.5 + 0) / 3, rtol=1e-6)
    np.testing.assert_allclose(losses.hinge(logits, 0.0), (0 + 1.5 + 3) / 3, rtol=1e-6)
    np.testing.assert_allclose(losses.negative_mean(logits, 1.0), -0.5 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("system", "cyclegan", 'config.system is "cyclegan": use one of lidc_mask2ct'),
        ("loss.adversarial", "gan", 'config.loss.adversarial is "gan": use one of bce'),
        ("loss.ssim", "ms", 'config.loss.ssim is "ms": use one of dm_pix'),
        ("constant_epochs", 300, "constant_epochs=300 is more than epochs=200"),
        ("constant_epochs", -1, "config.constant_epochs=-1: use 0 or more"),
        ("discriminator.dense_levels", -1, "config.discriminator.dense_levels=-1: use 0 or more"),
        ("generator.dropout_levels", -2, "config.generator.dropout_levels=-2: use 0 or more"),
        ("data.window_hu", (400, 400), "config.data.window_hu=(400, 400): use two numbers"),
        ("dtype", "float31", "config.dtype='float31': use one of float32, bfloat16"),
    ],
)
def test_wrong_values_are_named(field, value, message):
    config = get_config()
    *parents, name = field.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[name] = value
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_system(config)


@pytest.mark.parametrize("shape", [(3, 8, 9, 1), (2, 8, 9, 2), (2, 4, 5, 6, 2)])
def test_soft_dice_and_its_gradient_are_monais(float64, shape):
    rng = np.random.default_rng(0)
    fake, target = rng.random(shape), (rng.random(shape) < 0.2).astype(np.float64)
    target[..., -1] = 0  # a class that is absent

    def channels_first(x):
        return torch.tensor(np.moveaxis(x, -1, 1))

    theirs = channels_first(fake).requires_grad_()
    loss = DiceLoss(batch=True, smooth_nr=1, smooth_dr=1)(theirs, channels_first(target))
    loss.backward()
    value, gradient = jax.value_and_grad(losses.soft_dice)(fake, target)
    assert float(value) == pytest.approx(loss.item(), abs=1e-12)
    np.testing.assert_allclose(gradient, np.moveaxis(theirs.grad.numpy(), 1, -1), atol=1e-12)
    nothing = np.zeros(shape)
    assert losses.soft_dice(nothing, nothing) == 0


def _assert_pytorchs(ours, theirs, shape):
    """ours(fake, target) -> scalar, and its gradient by fake, are those of theirs(fake, target).

    shape: [n, *spatial, c]; theirs gets [n, c, *spatial].
    """
    rng = np.random.default_rng(0)
    fake, target = rng.uniform(-1, 1, (2, *shape))
    target = 0.7 * fake + 0.3 * target  # correlated

    def channels_first(x):
        return torch.tensor(np.moveaxis(x, -1, 1))

    their_fake = channels_first(fake).requires_grad_()
    expected = theirs(their_fake, channels_first(target))
    expected.backward()
    value, gradient = jax.jit(jax.value_and_grad(ours))(fake, target)
    assert float(value) == pytest.approx(expected.item(), abs=1e-12)
    their_gradient = np.moveaxis(their_fake.grad.numpy(), 1, -1)
    np.testing.assert_allclose(gradient, their_gradient, rtol=0, atol=1e-12)
    assert np.abs(their_gradient).max() > 1e-6


def _torch_ms_ssim(a, b, levels):
    """Wang et al. 2003, section 3, with an 11 x 11 window by convolution: [n, 1, ..., h, w]."""
    n, (h, w) = len(a), a.shape[-2:]
    a, b = a.reshape(-1, 1, h, w), b.reshape(-1, 1, h, w)
    offsets = torch.arange(11, dtype=a.dtype) - 5
    window = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window = (window / window.sum())[None, None]
    weights = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333], dtype=a.dtype)[:levels]
    c1, c2 = 0.02**2, 0.06**2  # for the range 2
    factors = []
    for level in range(levels):
        mean_a, mean_b, aa, bb, ab = (
            torch.nn.functional.conv2d(x, window) for x in (a, b, a * a, b * b, a * b)
        )
        values = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
        if level == levels - 1:
            values = values * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        factors.append(values.reshape(n, -1).mean(1))
        a, b = (torch.nn.functional.avg_pool2d(x, 2) for x in (a, b))
    return torch.prod(torch.stack(factors, 1) ** (weights / weights.sum()), 1)


@pytest.mark.parametrize(
    ("shape", "levels"),
    [((2, 12, 11, 1), 1), ((2, 23, 26, 1), 2), ((1, 45, 47, 1), 3), ((2, 2, 22, 25, 1), 2)],
)
def test_ms_ssim_is_that_of_convolutions(float64, shape, levels):
    def ours(fake, target):
        return losses.ms_ssim(fake, target, levels).mean()

    _assert_pytorchs(ours, lambda a, b: _torch_ms_ssim(a, b, levels).mean(), shape)


def test_ms_ssim_of_one_scale_is_ssim_and_of_equal_images_one():
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 2, 44, 44, 1)).astype(np.float32)
    similarity = losses.SSIM_FORMS["unclipped"](a, b)
    np.testing.assert_allclose(losses.ms_ssim(a, b, levels=1), similarity, rtol=1e-5)
    np.testing.assert_allclose(losses.ms_ssim(a, a, levels=3), 1, rtol=1e-5)


def test_ms_ssim_keeps_the_type_of_its_images(float64):
    image = jnp.zeros((1, 22, 22, 1), jnp.float32)
    assert losses.ms_ssim(image, image, levels=2).dtype == jnp.float32


def test_ms_ssim_of_opposite_images_is_the_floor_with_a_finite_gradient():
    a = np.random.default_rng(0).uniform(0, 1, (1, 22, 22, 1)).astype(np.float32)
    value, gradient = jax.value_and_grad(lambda x: losses.ms_ssim(x, 1 - a, levels=2)[0])(a)
    assert value == pytest.approx(1e-3) and np.isfinite(gradient).all()


@pytest.mark.parametrize(("levels", "most"), [(5, 4), (0, 4), (6, 4)])
def test_ms_ssim_names_levels_that_do_not_fit(levels, most):
    image = np.zeros((1, 88, 90, 1), np.float32)
    with pytest.raises(ConfigError, match=rf"ms_ssim_levels is {levels}: .*88 x 90.* 1 to {most}"):
        losses.ms_ssim(image, image, levels)
    assert losses.ms_ssim(image, image, most).shape == (1,)


@pytest.mark.parametrize("shape", [(2, 8, 9, 1), (2, 4, 5, 6, 1)])
def test_gradient_difference_and_its_gradient(float64, shape):
    def theirs(fake, target):
        terms = []
        for axis in range(2, fake.ndim):
            ours, real = (torch.diff(x, dim=axis).abs() for x in (fake, target))
            terms.append(torch.nn.functional.mse_loss(ours, real))
        return sum(terms) / len(terms)

    _assert_pytorchs(losses.gradient_difference, theirs, shape)


def test_gradient_difference_of_ramps():
    """Slopes are 2 and 5 along rows and 0 along columns; their sign does not matter."""
    ramp = np.arange(6, dtype=np.float32)[None, :, None, None] * np.ones((1, 6, 6, 1), np.float32)
    np.testing.assert_allclose(losses.gradient_difference(2 * ramp, 5 * ramp), 9 / 2)
    assert losses.gradient_difference(2 * ramp, -2 * ramp) == 0


WINDOW_HU = (-1024, 3000)


@pytest.mark.parametrize("shape", [(2, 8, 9, 1), (2, 4, 5, 6, 1)])
def test_dice_of_structures_and_its_gradient(float64, shape):
    def theirs(fake, target):
        parts = []
        for image in (fake, target):
            hu = image * 2012 + 988
            air = torch.sigmoid(-(hu + 200) / 25)
            bone = torch.sigmoid((hu - 250) / 25)
            parts.append((air, 1 - air - bone, bone))
        dice = [
            (2 * (p * q).sum() + 1) / ((p * p).sum() + (q * q).sum() + 1)
            for p, q in zip(*parts, strict=True)
        ]
        return 1 - sum(dice) / 3

    # Values span some 300 HU, else no pixel would be near an edge.
    def ours(fake, target):
        return losses.structure_dice(WINDOW_HU)(0.15 * fake - 0.5, 0.15 * target - 0.5)

    _assert_pytorchs(ours, lambda a, b: theirs(0.15 * a - 0.5, 0.15 * b - 0.5), shape)


def test_dice_of_structures_is_zero_for_equal_images_and_two_thirds_for_air_as_bone():
    dice = losses.structure_dice(WINDOW_HU)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 1)).astype(np.float32)
    assert dice(image, image) == pytest.approx(0, abs=1e-6)
    air, bone = np.full((1, 64, 64, 1), -1.0, np.float32), np.full((1, 64, 64, 1), 1.0, np.float32)
    # Two classes miss all of their pixels, the third has none.
    assert dice(air, bone) == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize("scales", [1, 2])
def test_feature_matching_is_of_hidden_layers_and_moves_the_fake_alone(float64, scales):
    rng = np.random.default_rng(0)

    def features():
        layers = [
            tuple(rng.normal(size=(2, side // 2**scale, side // 2**scale, c)) for scale in range(2))
            for side, c in ((8, 2), (4, 3), (4, 1))
        ]
        return [layer[:scales] if scales > 1 else layer[0] for layer in layers]

    fake, real = features(), features()
    value, (by_fake, by_real) = jax.value_and_grad(losses.feature_matching, (0, 1))(fake, real)
    theirs = [torch.tensor(x, requires_grad=True) for x in jax.tree.leaves(fake[:-1])]
    distances = [
        torch.nn.functional.l1_loss(a, torch.tensor(b))
        for a, b in zip(theirs, jax.tree.leaves(real[:-1]), strict=True)
    ]
    expected = sum(distances) / len(distances)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), abs=1e-12)
    for ours, other in zip(jax.tree.leaves(by_fake[:-1]), theirs, strict=True):
        np.testing.assert_allclose(ours, other.grad, atol=1e-15)
    nothing = [*jax.tree.leaves(by_real), *jax.tree.leaves(by_fake[-1])]
    assert all((x == 0).all() for x in nothing)


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_r1_and_its_gradient_by_double_backward(float64, norm):
    torch.manual_seed(0)
    oracle = PatchGANOracle(2, norm).double()
    for parameter in oracle.parameters():  # initial weights of 0.02 leave 1e-9 of the image
        parameter.data *= 10
    ours = PatchGAN(width=2, norm=norm, dtype=jnp.float64)
    params = parity.to_flax(
        oracle, {k: v.detach().numpy() for k, v in oracle.named_parameters()}, jnp.float64
    )
    source, image = np.random.default_rng(0).uniform(-1, 1, (2, 2, 32, 32, 1))

    their_source, their_image = (torch.tensor(x).permute(0, 3, 1, 2) for x in (source, image))
    their_image.requires_grad_()
    logits = oracle(their_source, their_image)[-1]
    (slope,) = torch.autograd.grad(logits.sum(), their_image, create_graph=True)
    expected = slope.square().sum((1, 2, 3)).mean() / 2
    expected.backward()
    gradients = {
        k: np.zeros(v.shape) if v.grad is None else v.grad.numpy()
        for k, v in oracle.named_parameters()
    }

    def penalty(params):
        def discriminate(source, image, update_stats):
            assert not update_stats
            return ours.apply({"params": params}, source, image, train=True)

        return r1_penalty(discriminate, source, image)

    value, by_params = jax.jit(jax.value_and_grad(penalty))(params)
    assert float(value) == pytest.approx(expected.item(), rel=1e-10)
    parity.assert_trees(by_params, parity.to_flax(oracle, gradients, jnp.float64))


def _loss_config(**fields):
    config = get_config()
    config.steps_per_epoch = 1
    config.loss.ssim_weight = 0.0
    config.loss.ms_ssim_levels = 2
    config.update_from_flattened_dict(fields)
    return config


def _traced(config):
    """(operations in both losses, calls of D in each loss), with a D of one hidden layer."""
    source, target, fake = np.random.default_rng(0).uniform(-1, 1, (3, 1, 24, 24, 1))
    calls = []

    def discriminate(source, image, update_stats=True):
        del update_stats
        calls.append(image)
        return [source + 2 * image, jnp.sin(source * image)]

    names, counts = set(), []
    d_loss, g_loss = losses.pix2pix_losses(config)
    key = jax.random.key(0)
    for loss, more in ((d_loss, (key,)), (g_loss, ())):
        calls.clear()
        jaxpr = jax.make_jaxpr(
            lambda *images, loss=loss, more=more: loss(discriminate, *images, *more)[0]
        )
        names |= set(re.findall(r"= (?:jit\[name=)?(\w+)", str(jaxpr(source, target, fake))))
        counts.append(len(calls))
    return names, counts


@pytest.mark.parametrize(
    ("field", "name", "calls"),
    [
        ("ssim_weight", "dot_general", [1, 1]),
        ("ms_ssim_weight", "dot_general", [1, 1]),
        ("gradient_weight", "diff", [1, 1]),
        ("structure_weight", "logistic", [1, 1]),
        ("feature_matching_weight", "stop_gradient", [1, 2]),
        ("r1_weight", "cos", [2, 1]),
    ],
)
def test_a_term_without_a_weight_is_not_computed(field, name, calls):
    without, counts = _traced(_loss_config())
    assert counts == [1, 1]
    names, counts = _traced(_loss_config(**{f"loss.{field}": 0.5}))
    assert name in names - without
    assert counts == calls


def test_weighted_terms_add_up(float64):
    terms = {
        "G_adversarial": "adversarial_weight",
        "l1": "l1_weight",
        "ssim": "ssim_weight",
        "ms_ssim": "ms_ssim_weight",
        "gradient_difference": "gradient_weight",
        "structures": "structure_weight",
        "feature_matching": "feature_matching_weight",
    }
    weights = dict(zip(terms, (2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0), strict=True))
    fields = {f"loss.{field}": weights[name] for name, field in terms.items()}
    config = _loss_config(**fields, **{"loss.r1_weight": 19.0, "loss.discriminator_weight": 0.25})
    source, target, fake = np.random.default_rng(0).uniform(-1, 1, (3, 2, 24, 24, 1))

    def discriminate(source, image, update_stats=True):
        del update_stats
        return [source + 2 * image, jnp.sin(source * image)]

    d_loss, g_loss = losses.pix2pix_losses(config)
    loss, metrics = g_loss(discriminate, source, target, fake)
    assert metrics.keys() == {"loss_G", *terms}
    assert len(set(map(float, metrics.values()))) == 1 + len(terms)
    costs = {k: 1 - v if k.endswith("ssim") else v for k, v in metrics.items()}
    assert loss == metrics["loss_G"]
    expected = float(sum(weights[k] * costs[k] for k in terms))
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    loss, metrics = d_loss(discriminate, source, target, fake, None)
    expected = float(0.25 * (metrics["D_real"] + metrics["D_fake"]) + 19 * metrics["r1"])
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    slope = np.cos(source * target) * source
    assert float(metrics["r1"]) == pytest.approx(np.square(slope).sum() / 4, rel=1e-12)


def test_every_scale_of_the_logits_counts_the_same():
    def discriminate(source, image):
        del source
        return [(jnp.tile(image, (1, 8, 8, 1)), jnp.tile(image + 3, (1, 3, 3, 1)))]

    d_loss, g_loss = losses.pix2pix_losses(_loss_config(**{"loss.adversarial": "lsgan"}))
    black, white = jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
    _, metrics = d_loss(discriminate, black, white, black, None)
    assert (metrics["D_real"], metrics["D_fake"]) == ((0 + 9) / 2, (0 + 9) / 2)
    _, metrics = g_loss(discriminate, black, white, black)
    assert metrics["G_adversarial"] == (1 + 4) / 2


@pytest.mark.slow
@pytest.mark.parametrize("scales", [1, 2])
def test_logits_of_both_are_those_of_each(float64, scales):
    rng = np.random.default_rng(0)
    source, real, fake = (jnp.asarray(x) for x in rng.uniform(-1, 1, (3, 4, 32, 32, 1)))
    net = PatchGAN(width=2, strided_levels=1, scales=scales, dtype=jnp.float64)
    variables = net.init(jax.random.key(0), source, real, train=False)

    def discriminate(source, image):
        return net.apply(variables, source, image, train=True)

    both = losses.logits_of_both(discriminate, source, real, fake)
    for image, logits in zip((real, fake), both, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14),
            logits,
            discriminate(source, image)[-1],
        )


def test_logits_of_both_move_nothing_between_devices():
    mesh = sharding.make_mesh(1, 16)
    image = jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.float32, sharding=sharding.batch_sharding(mesh))

    @jax.jit
    def both(source, real, fake):
        return losses.logits_of_both(lambda source, x: [source * x], source, real, fake)

    text = both.lower(image, image, image).compile().as_text()
    assert "num_partitions=8" in text
    assert not re.search("all-|collective-", text)


def test_soft_dice_is_of_masks_and_of_them_alone():
    config = _loss_config(**{"loss.dice_weight": 3.0, "loss.l1_weight": 0.0})
    with pytest.raises(ConfigError, match=r"loss\.dice_weight needs masks as targets"):
        losses.pix2pix_losses(config)
    config.evaluation = ml_collections.ConfigDict({"regions": {"lungs": (1,)}})
    _, g_loss = losses.pix2pix_losses(config)
    target = jnp.asarray([[[[1.0], [-1.0], [-1.0], [1.0]]]])
    fake = jnp.asarray([[[[1.0], [1.0], [-1.0], [0.0]]]])
    loss, metrics = g_loss(lambda source, image: [image], target, target, fake)
    # Probabilities are 1, 1, 0 and 0.5; a 1 and the 0.5 lie inside a mask of two pixels.
    assert metrics["soft_dice"] == pytest.approx(1 - (2 * 1.5 + 1) / (2.5 + 2 + 1))
    assert loss == pytest.approx(metrics["G_adversarial"] + 3 * metrics["soft_dice"])


def test_structures_need_a_target_in_hu():
    config = _loss_config(**{"loss.structure_weight": 1.0})
    del config.data.window_hu
    with pytest.raises(ConfigError, match=r"loss\.structure_weight needs a target in HU"):
        losses.pix2pix_losses(config)
