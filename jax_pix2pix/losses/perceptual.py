"""Perceptual loss: distance of the features of a network trained on other images.

The network is VGG16 (Simonyan and Zisserman 2015). The user gives its weights as a safetensors file
with the names of torchvision's `vgg16().state_dict()`. Only convolutions up to relu4_3 are read:
`features.N.weight` [out, in, 3, 3] and `features.N.bias` [out] for N = 0, 2, 5, 7, 10, 12, 14, 17,
19, 21. PyTorch writes the file:

    safetensors.torch.save_file(torchvision.models.vgg16(weights="DEFAULT").state_dict(), "vgg16.safetensors")
"""  # noqa: E501  a line to copy

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.losses.tensor_file import read_tensors

# Numbers of the convolutions in torchvision's list, by block. A max-pooling separates blocks. The
# loss sees the output of each block, relu1_2, relu2_2, relu3_3 and relu4_3 (Johnson et al., ECCV
# 2016).
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21))
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB in [0, 1]


def read_vgg16(path):
    """Reads the weights.

    Args:
        path: safetensors file, as above; widths may differ from VGG16's.

    Returns:
        {N: (kernel [3, 3, in, out], bias [out])}, float32.

    Raises:
        ConfigError: there is no such file, or it holds no such weights.
    """
    field = "config.loss.perceptual_weights_file"
    if not path:
        raise ConfigError(f'{field}="": give VGG16\'s weights, or set perceptual_weight to 0')
    numbers = [number for block in BLOCKS for number in block]
    parts = {n: [f"features.{n}.{kind}" for kind in ("weight", "bias")] for n in numbers}
    arrays, _ = read_tensors(
        path, f'{field}="{path}"', {name for of in parts.values() for name in of}
    )
    weights, channels = {}, len(MEAN)
    for number, names in parts.items():
        kernel, bias = (arrays.get(name, np.zeros(0)) for name in names)
        if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (kernel, bias)):
            raise ConfigError(
                f"{field}: {path} holds {names[0]} as {kernel.dtype} and {names[1]} as "
                f"{bias.dtype}, not as floats: save torchvision's vgg16"
            )
        kernel, bias = (_float32(x) for x in (kernel, bias))
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise ConfigError(
                f"{field}: {path} holds {names[0]} or {names[1]} with values that are not finite: "
                "save torchvision's vgg16"
            )
        if (
            kernel.shape[1:] != (channels, 3, 3)
            or not kernel.shape[0]
            or bias.shape != kernel.shape[:1]
        ):
            raise ConfigError(
                f"{field}: {path} holds {names[0]} of shape {kernel.shape} and {names[1]} of "
                f"{bias.shape}, not [out, {channels}, 3, 3] and [out]: save torchvision's vgg16"
            )
        weights[number] = kernel.transpose(2, 3, 1, 0), bias
        channels = len(bias)
    return weights


def _float32(array):
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def vgg16_features(weights, image):
    """The outputs of the four blocks.

    Args:
        weights: from read_vgg16.
        image: [n, h, w, 1] in [-1, 1], or slices [n, d, h, w, 1], each an image of its own.

    Returns:
        List of [images, h', w', channels].
    """
    grey = (image.reshape(-1, *image.shape[-3:]) + 1) / 2
    x = (grey - np.array(MEAN, grey.dtype)) / np.array(DEVIATION, grey.dtype)
    features = []
    for block in BLOCKS:
        if features:
            x = nn.max_pool(x, (2, 2), (2, 2))
        for number in block:
            kernel, bias = (jnp.asarray(part, x.dtype) for part in weights[number])
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = nn.relu(x + bias)
        features.append(x)
    return features


def perceptual_distance(path):
    """(fake, target) -> mean over blocks of the L1 of their features; see read_vgg16."""
    weights = read_vgg16(path)

    def distance(fake, target):
        pairs = zip(vgg16_features(weights, fake), vgg16_features(weights, target), strict=True)
        return jnp.stack([jnp.abs(a - b).mean() for a, b in pairs]).mean()

    return distance
