"""The perceptual loss against torch.nn layers in torchvision's order, with narrow channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from configs.lidc_mask2ct import get_config
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.losses import terms
from jax_pix2pix.losses.perceptual import perceptual_distance, read_vgg16, vgg16_features
from jax_pix2pix.runs.workdir import build_system, load_run
from tests import untrained

# torchvision's configuration D up to relu4_3: channels of convolutions, and "M" for max-pooling.
LAYERS = (2, 3, "M", 4, 4, "M", 5, 4, 6, "M", 5, 7, 4)
OUTPUTS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3


def _vgg16():
    torch.manual_seed(0)
    layers, channels = [], 3
    for layer in LAYERS:
        if layer == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU()]
            channels = layer
    return nn.Sequential(*layers)


@pytest.fixture
def saved(tmp_path):
    """(path, features) of a network with a head; the head is not read."""
    features = _vgg16()
    module = nn.ModuleDict({"features": features, "classifier": nn.Linear(4, 2)})
    path = tmp_path / "vgg16.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    return path, features.double()


def _their_features(network, image):
    """image: [n, h, w, 1] in [-1, 1], a tensor."""
    mean, deviation = (
        torch.tensor(x, dtype=image.dtype)[:, None, None]
        for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x = (image.permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 2 + 0.5 - mean) / deviation
    features = []
    for number, layer in enumerate(network):
        x = layer(x)
        if number in OUTPUTS:
            features.append(x)
    return features


def test_features_are_pytorchs(float64, saved):
    path, network = saved
    image = np.random.default_rng(0).uniform(-1, 1, (2, 16, 18, 1))
    ours = vgg16_features(read_vgg16(path), image)
    theirs = _their_features(network, torch.tensor(image))
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours, theirs, strict=True):
        assert bool((a > 0).any())
        np.testing.assert_allclose(a, b.detach().permute(0, 2, 3, 1), atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 16, 18, 1), (2, 3, 16, 16, 1)])
def test_distance_and_its_gradient_are_pytorchs(float64, saved, shape):
    path, network = saved
    fake, target = np.random.default_rng(0).uniform(-1, 1, (2, *shape))
    value, gradient = jax.jit(jax.value_and_grad(perceptual_distance(path)))(fake, target)

    their_fake = torch.tensor(fake, requires_grad=True)
    pairs = zip(
        _their_features(network, their_fake.reshape(-1, *shape[-3:])),
        _their_features(network, torch.tensor(target).reshape(-1, *shape[-3:])),
        strict=True,
    )
    distances = [nn.functional.l1_loss(a, b) for a, b in pairs]
    expected = sum(distances) / len(distances)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, their_fake.grad, atol=1e-14)
    assert np.abs(gradient).max() > 1e-6


def test_equal_images_have_no_distance(saved):
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 1)), jnp.float32)
    distance = perceptual_distance(saved[0])(image, image)
    assert distance == 0 and distance.dtype == jnp.float32


def _generator_loss(path, weight):
    """-> function: (source, target, fake) -> (G's loss, metrics), with a D of one hidden layer."""
    config = get_config()
    config.loss.perceptual_weight, config.loss.perceptual_weights_file = weight, str(path)
    _, loss = terms.pix2pix_losses(config)

    def discriminate(source, image):
        return [source + 2 * image, jnp.sin(source * image)]

    return lambda *images: loss(discriminate, *images)


def test_it_enters_the_loss_of_g_with_its_weight(float64, saved):
    images = np.random.default_rng(0).uniform(-1, 1, (3, 2, 24, 24, 1))
    _, target, fake = images
    loss, metrics = _generator_loss(saved[0], 3.0)(*images)
    without, others = _generator_loss(saved[0], 0.0)(*images)
    distance = float(perceptual_distance(saved[0])(fake, target))
    assert distance > 1e-3 and float(metrics["perceptual"]) == pytest.approx(distance, rel=1e-12)
    assert float(loss) == pytest.approx(float(without) + 3 * distance, rel=1e-12)
    assert metrics.keys() - others.keys() == {"perceptual"}


def test_without_a_weight_it_is_not_computed(saved):
    images = np.random.default_rng(0).uniform(-1, 1, (3, 2, 24, 24, 1))
    convolution = "conv_general_dilated"
    assert convolution in str(jax.make_jaxpr(_generator_loss(saved[0], 0.5))(*images))
    for path in (saved[0], ""):  # nor is there a file to be read
        assert convolution not in str(jax.make_jaxpr(_generator_loss(path, 0.0))(*images))


@pytest.mark.parametrize("kind", ["missing", "unnamed", "folder", "pickle", "text", "cut"])
def test_a_file_that_is_not_safetensors_is_named_in_one_line(saved, tmp_path, kind):
    path = tmp_path / kind
    if kind == "unnamed":
        path = ""
    elif kind == "folder":
        path.mkdir()
    elif kind == "pickle":
        torch.save(_vgg16().state_dict(), path)
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "cut":
        path.write_bytes(saved[0].read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"config\.loss\.perceptual_weights_file=") as caught:
        read_vgg16(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def _without_prefix(state):
    return {name.removeprefix("features."): value for name, value in state.items()}


def _as_batch_normalised(state):
    """A VGG16 with batch norm has its second convolution at 3."""
    return {name.replace("features.2.", "features.3."): value for name, value in state.items()}


def _one_channel(state):
    return state | {"features.0.weight": state["features.0.weight"].sum(1, keepdim=True)}


def _five_by_five(state):
    return state | {"features.7.weight": torch.zeros(4, 4, 5, 5)}


def _short_bias(state):
    return state | {"features.21.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_without_prefix, "features.0"),
        (_as_batch_normalised, "features.2"),
        (_one_channel, "features.0"),
        (_five_by_five, "features.7"),
        (_short_bias, "features.21"),
    ],
)
def test_weights_of_another_network_are_named_in_one_line(saved, tmp_path, change, name):
    state = change(safetensors.torch.load_file(saved[0]))
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(ConfigError, match=rf"other\.safetensors holds {name}\.weight ") as caught:
        read_vgg16(path)
    assert "\n" not in str(caught.value) and "save torchvision's vgg16" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_fewer_bits_are_read(saved, tmp_path, dtype):
    state = {k: v.to(dtype) for k, v in safetensors.torch.load_file(saved[0]).items()}
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file(state, path)
    kernel, _ = read_vgg16(path)[0]
    expected = state["features.0.weight"].float().permute(2, 3, 1, 0)
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, expected)


def test_a_trained_run_does_without_the_file(saved, tmp_path):
    config = get_config()
    config.data.image_size = 64
    config.generator.width = config.discriminator.width = 2
    config.loss.perceptual_weight = 1.0
    config.loss.perceptual_weights_file = str(saved[0])
    workdir = untrained.save(tmp_path / "run", config)
    saved[0].unlink()
    with pytest.raises(ConfigError, match="cannot be read as safetensors"):
        build_system(config)
    loaded, *_ = load_run(str(workdir), "best")
    assert loaded.loss.perceptual_weight == 1.0
