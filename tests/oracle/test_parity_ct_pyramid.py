"""One scale of CT-GAN's pyramid against an independent PyTorch implementation, in 2D and 3D."""

import dataclasses
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from configs import ct_pyramid_2d, ct_pyramid_3d
from jax_pix2pix.adversarial import TrainState, generate, train_step
from jax_pix2pix.models.scale_net import SlabGenerator, VolumeGenerator
from jax_pix2pix.runs.workdir import abstract_state
from tests.oracle import ct_pyramid_torch as oracle
from tests.oracle import parity, training

CONFIGS = {2: ct_pyramid_2d, 3: ct_pyramid_3d}
SIZES = {2: [(8, 8), (12, 12)], 3: [(2, 8, 8), (3, 12, 12)]}
AMPLITUDES = [1.0, 0.3]
TERMS = ("reconstruction", "projection", "segmentation")


class Segmenter(torch.nn.Module):
    """A U-Net with one halving, on 4 x 8 x 8 voxels, in the volumes' range [-1, 1]."""

    SIZE = (4, 8, 8)

    def __init__(self):
        super().__init__()
        self.encode = torch.nn.Conv3d(1, 2, 4, 2, 1)
        self.decode = torch.nn.ConvTranspose3d(2, 1, 4, 2, 1)

    def forward(self, image):
        """Probabilities for either form of volumes."""
        x = oracle.resize(oracle.as_volumes(image)[:, None].clamp(-1, 1), self.SIZE)
        hidden = torch.nn.functional.leaky_relu(self.encode(x), 0.2)
        return (torch.tanh(self.decode(hidden)) + 1) / 2

    def save(self, path):
        kernels = {
            "encode_0": training.conv_kernel(self.encode.weight.detach().numpy()),
            # [in, out, *spatial]
            "decode_0": self.decode.weight.detach().permute(2, 3, 4, 0, 1).numpy(),
        }
        biases = {"encode_0": self.encode.bias, "decode_0": self.decode.bias}
        arrays = {f"params/{name}/kernel": np.ascontiguousarray(x) for name, x in kernels.items()}
        arrays |= {f"params/{name}/bias": x.detach().numpy() for name, x in biases.items()}
        network = {"width": 2, "depth": 1, "dropout": 0.0, "dropout_levels": 0}
        metadata = {
            "format": "jax_pix2pix segmenter",
            "version": "1",
            "generator": json.dumps(network),
            "size": json.dumps(self.SIZE),
            "source_range": json.dumps([-1000, 1000]),
        }
        safetensors.numpy.save_file(arrays, path, metadata)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """-> (the network in float64, its file)."""
    torch.manual_seed(1)
    network = Segmenter().double().requires_grad_(False)
    path = tmp_path_factory.mktemp("segmenter") / "segmenter.safetensors"
    network.save(path)
    return network, str(path)


def _config(ndim, scale, segmenter_path, **fields):
    config = CONFIGS[ndim].get_config()
    config.data.image_size, config.data.depth = 12, 3
    config.data.batch_size = 2
    config.pyramid.min_size, config.pyramid.max_size, config.pyramid.depth_divisor = 8, 12, 4
    config.pyramid.scale = scale
    config.epochs = 2  # the rate falls after one step, not after one update
    config.generator.width = config.discriminator.width = 4
    config.generator.norm = config.discriminator.norm = "batch"
    config.loss.segmentation_weights_file = segmenter_path
    config.update_from_flattened_dict(fields)
    return config


def _networks(config):
    """The generators of the scales up to the trained one, and its discriminator."""
    torch.manual_seed(0)
    width, norm, depth = config.generator.width, config.generator.norm, config.data.depth
    if config.pyramid.dimensions == 2:
        made = [oracle.SlabGenerator(depth, width, norm=norm) for _ in range(2)]
        critic = oracle.Discriminator(
            config.discriminator.width, norm=config.discriminator.norm, ndim=2, channels=depth
        )
    else:
        made = [oracle.VolumeGenerator(width, norm=norm) for _ in range(2)]
        critic = oracle.Discriminator(config.discriminator.width, norm=config.discriminator.norm)
    for module in (*made, critic):
        for parameter in module.parameters():
            if parameter.ndim > 1:  # initial weights of 0.02 make almost empty images
                torch.nn.init.kaiming_normal_(parameter)
    *generators, critic = parity.networks(*made, critic)
    return generators[1 - config.pyramid.scale :], critic


def _images(config):
    """A stored batch, with HU beyond the window, and the volumes at the trained scale."""
    rng = np.random.default_rng(0)
    hu = rng.integers(-1500, 1500, (2, 3, 12, 12, 1)).astype(np.int16)
    index = np.array([[0, 1, 2], [4, 5, 6]])
    volumes = parity.to_torch(np.clip(hu, -1000, 1000) / 1000.0)
    size = SIZES[config.pyramid.dimensions][config.pyramid.scale]
    if config.pyramid.dimensions == 2:
        volumes = volumes[:, 0]
    return {"source": hu, "target": hu, "index": index}, oracle.resize(volumes, size)


def _state(system, generators, critic):
    state = parity.state(system, generators[-1], critic, jnp.float64)
    wrapped = {"net": state.generator.params}
    stats = state.generator.batch_stats
    scales = {}
    for number, module in enumerate(generators[:-1]):
        frozen = parity.state(system, module, critic, jnp.float64).generator
        scales[f"scale_{number}"] = {"params": frozen.params, "batch_stats": frozen.batch_stats}
    generator = state.generator.replace(
        params=wrapped,
        batch_stats={"net": stats} if stats else {},
        opt_state=system.generator_optimizer.init(wrapped),
        frozen={"scales": scales, "amplitudes": jnp.asarray(AMPLITUDES[: len(generators)])},
    )
    return state.replace(generator=generator)


def _of_net(network):
    """The trained scale's own part of the pyramid."""
    return network.replace(
        params=network.params["net"], batch_stats=network.batch_stats.get("net", {})
    )


@dataclasses.dataclass(frozen=True)
class Iteration:
    state: TrainState
    metrics: dict[str, Any]
    gradients: list  # for each update
    noises: list  # for the nets' calls, times their amplitudes
    shares: list  # shares of the real volumes in the input of the gradient penalty


def _iteration(system, state, batch):
    """Runs train_step and records all that it drew."""
    noted, gradients = parity.capture_gradients(system)
    noises, shares = [], []

    def discriminator_loss(discriminate, source, target, fake, key):
        shape = (len(target), *(1,) * (target.ndim - 1))
        shares.append(jax.random.uniform(key, shape, target.dtype))
        return system.discriminator_loss(discriminate, source, target, fake, key)

    def record(next_function, args, kwargs, context):
        nets = isinstance(context.module, (VolumeGenerator, SlabGenerator))
        if nets and context.method_name == "__call__":
            noises.append(args[1])
        return next_function(*args, **kwargs)

    noted = dataclasses.replace(noted, discriminator_loss=discriminator_loss)

    def step(state, batch):
        with nn.intercept_methods(record):
            new, metrics = train_step(noted, state, batch, jax.random.key(0))
        return new, metrics, gradients, noises, shares

    return Iteration(*jax.jit(step)(state, batch))


def _coarser(generators, noises, sizes):
    """The frozen scales' image, upsampled as the trained scale's input; zeros at scale 0."""
    image = None
    for number, (size, noise) in enumerate(zip(sizes, noises, strict=True)):
        blank = torch.zeros(*noise.shape[:2], *size, dtype=noise.dtype)
        image = blank if image is None else oracle.resize(image, size)
        if number == len(sizes) - 1:
            return image
        with torch.no_grad():
            frozen = generators[number].eval()
            image = frozen(image, noise, residual=number > 0)


def _inputs(config, generators, noises, z_rec):
    """The inputs of the nets, in PyTorch's layout.

    -> (image, noise) for the samples of D's updates, and for the reconstruction.
    """
    sizes = SIZES[config.pyramid.dimensions][: len(generators)]
    calls = [parity.to_torch(noise) for noise in noises]
    images = [calls[i : i + len(sizes)] for i in range(0, len(calls), len(sizes))]
    samples, reconstructions = images[0::2], images[1::2]
    # D's last sample is also G's, and G's further updates keep its noise.
    of_d = config.pyramid.discriminator_updates
    assert len(samples) == len(reconstructions) == of_d + config.pyramid.generator_updates - 1
    for sample in samples[of_d:]:
        assert all(map(torch.equal, sample, samples[of_d - 1]))
    assert len({tuple(sample[0].flatten().tolist()) for sample in samples}) == of_d
    for noise, size, amplitude in zip(samples[0], sizes, AMPLITUDES, strict=False):
        assert noise[noise != 0].std().item() == pytest.approx(amplitude, rel=0.15)
        margins = [m for side in reversed(size) for m in generators[-1].margins(side)]
        inside = torch.nn.functional.pad(torch.ones(size), margins) > 0
        border_noise = config.pyramid.border_noise
        assert torch.equal(noise != 0, (inside | border_noise).expand_as(noise))
    silent = [z_rec, *(torch.zeros_like(noise) for noise in samples[0][1:])]
    for reconstruction in reconstructions:
        assert all(map(torch.equal, reconstruction, silent))
    return (
        [(_coarser(generators, noise, sizes), noise[-1]) for noise in samples[:of_d]],
        (_coarser(generators, silent, sizes), silent[-1]),
    )


INSTANCE = {"generator.norm": "instance", "discriminator.norm": "instance"}
WGAN = {"loss.adversarial": "wgan", "loss.gradient_penalty_weight": 0.1}
PUBLISHED = {"loss.projection": "boundary_slices", "loss.segmentation_gradient": False}
CASES = {  # {name: (dimensions, scale, updates of each network, fields)}
    "3d_batch_0": (3, 0, 1, {}),
    "3d_batch_1": (3, 1, 3, {}),
    "3d_instance_1": (3, 1, 1, INSTANCE),
    "3d_wgan_1": (3, 1, 1, WGAN),
    "3d_as_published_1": (3, 1, 1, PUBLISHED),
    "2d_batch_0": (2, 0, 3, {}),
    "2d_batch_1": (2, 1, 1, {}),
    "2d_instance_1": (2, 1, 1, INSTANCE),
    "2d_wgan_1": (2, 1, 1, WGAN | {"pyramid.border_noise": True}),
}
SLOW = set(CASES) - {"2d_batch_1"}  # slow to compile
LONG = SLOW - {"3d_instance_1", "2d_batch_0", "2d_wgan_1"}


def _case(name):
    marks = [pytest.mark.slow] * (name in SLOW) + [pytest.mark.long] * (name in LONG)
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [_case(name) for name in CASES])
def test_an_iteration_is_pytorchs(float64, segmenter, name):
    """Losses and gradients of all updates agree to 1e-9, and so do weights and statistics."""
    ndim, scale, updates, fields = CASES[name]
    config = _config(ndim, scale, segmenter[1], **fields)
    config.pyramid.discriminator_updates = config.pyramid.generator_updates = updates
    system = parity.system(config, "float64")
    generators, critic = _networks(config)
    batch, real = _images(config)
    state = _state(system, generators, critic)
    z_rec, target = jax.jit(system.normalise)(batch)
    np.testing.assert_allclose(target, parity.channels_last(real), atol=1e-12)

    ours = _iteration(system, state, batch)
    samples, reconstruction = _inputs(config, generators, ours.noises, parity.to_torch(z_rec))
    weights = config.loss
    judged, created = oracle.step(
        generators[-1],
        critic,
        real,
        samples,
        reconstruction,
        residual=scale > 0,
        generator_updates=config.pyramid.generator_updates,
        learning_rate=float(ours.metrics["learning_rate"]),
        epsilons=[parity.to_torch(share) for share in ours.shares],
        adversarial=weights.adversarial,
        segmenter=segmenter[0],
        projection=weights.projection,
        segmentation_gradient=weights.segmentation_gradient,
    )
    judged_names = {"loss_D": "loss_d", "D_real": "real", "D_fake": "fake"}
    if weights.adversarial == "wgan":
        judged_names["gradient_penalty"] = "penalty"
    created_names = {"loss_G": "loss_g", "G_adversarial": "adversarial"} | {t: t for t in TERMS}
    expected = {name: judged[-1][theirs] for name, theirs in judged_names.items()}
    expected |= {name: created[-1][theirs] for name, theirs in created_names.items()}
    assert set(ours.metrics) == {*expected, "learning_rate", "skipped_D", "skipped_G"}
    parity.assert_losses(ours.metrics, expected, 1e-9)
    for number, (gradients, theirs) in enumerate(
        zip(ours.gradients, [*judged, *created], strict=True)
    ):
        module, gradients = (
            (critic, gradients) if number < len(judged) else (generators[-1], gradients["net"])
        )
        parity.assert_trees(gradients, parity.to_flax(module, theirs["grads"], jnp.float64))
    parity.assert_same_network(ours.state.discriminator, critic)
    parity.assert_same_network(_of_net(ours.state.generator), generators[-1])
    jax.tree.map(np.testing.assert_array_equal, ours.state.generator.frozen, state.generator.frozen)


@pytest.mark.parametrize("ndim", [2, 3])
def test_evaluation_is_pytorchs(float64, ndim, segmenter):
    """It is the reconstruction with running statistics, at scale 1."""
    config = _config(ndim, 1, segmenter[1])
    system = parity.system(config, "float64")
    generators, critic = _networks(config)
    batch, _ = _images(config)
    state = _state(system, generators, critic)
    z_rec, _ = jax.jit(system.normalise)(batch)
    ours = jax.jit(lambda z: generate(system, state.generator, z))(z_rec)
    first = parity.to_torch(z_rec)
    second = torch.zeros(2, first.shape[1], *generators[1].noise_size(SIZES[ndim][1])).double()
    image = _coarser(generators, [first, second], SIZES[ndim])
    with torch.no_grad():
        theirs = generators[1].eval()(image, second)
    assert np.abs(ours).max() > 0.1
    np.testing.assert_allclose(ours, parity.channels_last(theirs), atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_parameter_counts(ndim):
    """They are compared at the config's own width."""
    config = CONFIGS[ndim].get_config()
    config.loss.segmentation_weight = 0.0
    state = abstract_state(parity.system(config, "float32"), config)
    generator, critic = oracle.VolumeGenerator(), oracle.Discriminator()
    if ndim == 2:
        generator = oracle.SlabGenerator(config.data.depth, norm=config.generator.norm)
        critic = oracle.Discriminator(64, ndim=2, channels=config.data.depth)
    for network, module in ((state.generator, generator), (state.discriminator, critic)):
        ours = sum(x.size for x in jax.tree.leaves(network.params))
        assert ours == sum(p.numel() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("ndim", "attached"), [(3, True), (2, False)])
def test_each_term_reaches_every_parameter_of_g(float64, segmenter, ndim, attached):
    """The detached segmentation, as published, reaches none."""
    config = _config(ndim, 1, segmenter[1], **{"loss.segmentation_gradient": attached})
    gradients = _gradients_of_terms(config)
    assert set(gradients) == {"loss_G", "G_adversarial", *TERMS}
    for name, reached in gradients.items():
        for path, gradient in jax.tree_util.tree_leaves_with_path(reached):
            largest, where = np.abs(gradient).max(), name + jax.tree_util.keystr(path)
            if name == "segmentation" and not attached:
                assert largest == 0, where
            else:
                assert largest > 1e-9, where


def _gradients_of_terms(config):
    """{name of a loss of G: its gradient with respect to the trained net's parameters}."""
    system = parity.system(config, "float64")
    generators, critic = _networks(config)
    batch, _ = _images(config)
    state = _state(system, generators, critic)

    @jax.jit
    def gradients(batch):
        source, target = system.normalise(batch)

        def discriminate(source, image):
            d = state.discriminator
            variables = {"params": d.params, "batch_stats": d.batch_stats}
            return system.discriminator.apply(
                variables, source, image, train=True, mutable=["batch_stats"]
            )[0]

        def losses(params):
            g = state.generator
            variables = {"params": params, "batch_stats": g.batch_stats, "frozen": g.frozen}
            fake, _ = system.generator.apply(
                variables, source, train=True, mutable=["batch_stats"],
                rngs={"noise": jax.random.key(0)},
            )  # fmt: skip
            loss, metrics = system.generator_loss(discriminate, source, target, fake)
            return metrics | {"loss_G": loss}

        return jax.jacrev(losses)(state.generator.params)

    return gradients(batch)


def test_fixed_noise_belongs_to_its_example(segmenter):
    """It depends on seed and index, not on the rest of the batch."""

    def fixed(reverse=False, **fields):
        config = _config(3, 1, segmenter[1], **fields)
        batch = {name: x[::-1] if reverse else x for name, x in _images(config)[0].items()}
        return np.asarray(parity.system(config, "float32").normalise(batch)[0])

    first, second = fixed()
    assert first.shape == (12, 18, 18, 1) and not np.array_equal(first, second)
    np.testing.assert_array_equal(fixed(reverse=True), [second, first])
    assert not np.array_equal(fixed(seed=1)[0], first)
    beyond = fixed(**{"pyramid.border_noise": True})[0]
    assert 0.9 < np.std(beyond) < 1.1 and np.count_nonzero(first) == 2 * 8 * 8
    np.testing.assert_array_equal(beyond[5:-5, 5:-5, 5:-5], first[5:-5, 5:-5, 5:-5])
