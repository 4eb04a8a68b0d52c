"""A frozen segmentation network for a loss: the distance between its masks of two CT volumes.

The network is a 3D U-Net (`models/unet.py`) in a safetensors file that `launch.export_segmenter`
makes from a run of `configs/lung_segmenter.py`. Its training decides whether it finds lungs or
another structure. The file has a tensor of floats for each parameter and each running statistic of
batch norm, named by its path in the network:

    params/encode_0/kernel [4, 4, 4, in, out], params/encode_0/bias [out], encode_1, ...
    params/decode_0/kernel [4, 4, 4, in, out], params/decode_0/bias [out], decode_1, ...
    {params,batch_stats}/{encode,decode}_norm_1/BatchNorm_0/{scale,bias,mean,var}

The metadata are "format": FORMAT, "version": VERSION and, in JSON, "generator": the fields of UNet,
"size": [depth, height, width] of its input, "source_range": (low, high) in HU of its [-1, 1].
"""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from jax_pix2pix import config_fields
from jax_pix2pix.errors import ConfigError
from jax_pix2pix.intensity import to_network, to_stored
from jax_pix2pix.losses.tensor_file import read_tensors
from jax_pix2pix.models.resize import resize_linear
from jax_pix2pix.models.unet import UNet
from jax_pix2pix.safety import safe_files
from jax_pix2pix.tasks import kinds

FORMAT, VERSION = "jax_pix2pix segmenter", "1"
EMBEDDED = os.path.join(os.path.dirname(__file__), "weights", "lung_segmenter.safetensors")
# A file may be somebody else's: limits of its bytes, of its input's sides, of the numbers in its
# network's widest layer, and of each description's characters.
MAX_BYTES, LARGEST, WIDEST, MAX_TEXT = 2**29, 1024, 2**31, 4096
FIELD = "config.loss.segmentation_weights_file"


def save(path, config, system, generator):
    """Writes the generator of a run as a segmenter, in float16; the file appears once complete.

    Args:
        path: the file; its folder is made.
        config, system, generator: of a run, as `workdir.load_run` opens it.

    Raises:
        ConfigError: the run does not make masks of CT volumes with a U-Net of one class, or a
            parameter does not fit into float16.
    """
    data, network = config.data, system.generator
    reasons = {
        "it makes no masks": not kinds.makes_masks(config),
        "its network is no U-Net": not isinstance(network, UNet),
        "it has no blocks of slices: set config.data.depth": not data.depth,
        "it does not take HU": kinds.kind_of(config) == kinds.XRAY_MASKS,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(
                f"a run of {config.system} is no segmenter, since {reason}; "
                "configs/lung_segmenter.py is one"
            )
    params = generator.params if generator.average is None else generator.average
    arrays = {}
    for name, value in _flat({"params": params, "batch_stats": generator.batch_stats}).items():
        with np.errstate(over="ignore"):
            arrays[name] = np.asarray(value).astype(np.float16)
        if not np.isfinite(arrays[name]).all():
            raise ConfigError(f"{name} does not fit into float16: did the training diverge?")
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "generator": json.dumps(dict(config.generator)),
        "size": json.dumps([data.depth, data.image_size, data.image_size]),
        "source_range": json.dumps(list(data.source_range)),
    }
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    safe_files.write(path, safetensors.numpy.save(arrays, metadata))


def load(path):
    """Reads a segmenter.

    Args:
        path: the file; "" is the embedded segmenter of the lungs.

    Returns:
        HU [n, d, h, w, 1] -> probabilities [n, *size, 1] on the network's grid, to which a volume
        of any size is resized. It is differentiable and computes in the type of its input.

    Raises:
        ConfigError: there is no such file, or it is no segmenter of a known form.
    """
    shown = path or EMBEDDED
    arrays, metadata = read_tensors(shown, f"{FIELD}: {shown}", limit=MAX_BYTES)
    network, size, source_range = _described(shown, metadata)
    variables = _checked(shown, network, size, arrays)

    def probabilities(hu):
        x = resize_linear(to_network(hu, source_range, hu.dtype), size)
        own = jax.tree.map(lambda value: jnp.asarray(value, x.dtype), variables)
        output: Any = network.clone(dtype=x.dtype).apply(own, x, train=False)
        return (output + 1) / 2

    return probabilities


def segmentation_distance(path, window_hu):
    """(fake, target) -> mean squared difference of the probabilities that a segmenter gives them.

    Args:
        path: as for `load`.
        window_hu: HU of -1 and 1 in fake and target, [n, d, h, w, 1].
    """
    probabilities = load(path)

    def distance(fake, target):
        found, expected = (probabilities(to_stored(x, window_hu)) for x in (fake, target))
        return jnp.square(found - expected).mean()

    return distance


def _described(path, metadata):
    """Metadata -> (UNet, size, source_range)."""
    if metadata.get("format") != FORMAT:
        raise ConfigError(f"{FIELD}: {path} is no segmenter: use a file of launch.export_segmenter")
    if metadata.get("version") != VERSION:
        raise ConfigError(
            f"{FIELD}: {path} has version {metadata.get('version')}, and {VERSION} is read here: "
            "export it again"
        )
    try:
        described = {name: metadata[name] for name in ("generator", "size", "source_range")}
        if max(map(len, described.values())) > MAX_TEXT:
            raise ValueError(f"above the limit of {MAX_TEXT} characters")
        fields, size, source_range = map(json.loads, described.values())
        config_fields.check({"generator": fields, "data": {"source_range": source_range}})
        network, (low, high) = UNet(**fields, out_channels=1), source_range
        fits = len(size) == 3 and all(type(x) is int and 0 < x <= LARGEST for x in size)
        fits = fits and np.prod([*map(float, size), network.width]) < WIDEST
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{FIELD}: {path} has damaged metadata ({error!r})") from error
    if not fits:
        raise ConfigError(
            f"{FIELD}: {path} has size {size} and width {network.width}: three whole numbers up to "
            f"{LARGEST}, and all together less than {WIDEST}, are needed"
        )
    return network, tuple(size), (low, high)


def _checked(path, network, size, arrays):
    """Checks the flat arrays and nests them as the network's variables."""
    image = jax.ShapeDtypeStruct((1, *size, 1), jnp.float32)
    try:
        abstract = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), image)
    except Exception as error:  # the network's fields come from the file, with any type
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{FIELD}: {path} describes no network ({reason})") from error
    expected = _flat(abstract)
    for problem, names in (
        ("lacks", expected.keys() - arrays.keys()),
        ("has more than its network:", arrays.keys() - expected.keys()),
    ):
        if names:
            raise ConfigError(f"{FIELD}: {path} {problem} {', '.join(sorted(names)[:3])}")
    for name, value in arrays.items():
        if value.shape != expected[name].shape or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ConfigError(
                f"{FIELD}: {path} holds {name} as {value.dtype} {list(value.shape)}, not as floats "
                f"{list(expected[name].shape)}"
            )
        if not np.isfinite(value).all():
            raise ConfigError(f"{FIELD}: {path} holds {name} with values that are not finite")
    return traverse_util.unflatten_dict(arrays, sep="/")


def _flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")
