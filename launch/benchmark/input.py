"""Measures ways to feed training with image pairs, this project's and PyTorch's DataLoader.

    python -m launch.benchmark.input --source=sample --batch_size=64 --output=input.json

All ways read the same pairs, repeated to --examples, in the same order, from files in a temporary
folder that the page cache holds. Batches of this project end in arrays on JAX's first device, and
are compared bit for bit before they are timed. PyTorch's end in host memory; the unaugmented ones
are compared too, and augmentation is Pillow's. Each way runs in a process of its own. Linux only.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import itertools
import json
import multiprocessing
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import ml_collections
import numpy as np
from absl import flags
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from input_pipeline import order, pipeline, prepared
from input_pipeline.prepare import DATASETS, options_of, prepare
from input_pipeline.tf_cpu import tf
from jax_pix2pix import device_cache
from jax_pix2pix.errors import DataError
from launch.benchmark import meter, options, report
from launch.process import command

FLAGS = flags.FLAGS
CHECK_STEPS = 3  # batches compared bit for bit, and as many from meter.FAR on
WORKERS = sorted({0, 1, 2, 4, report.available_cores()})  # of PyTorch's DataLoader
PACKAGES = ("jax", "numpy", "pillow", "tensorflow-cpu", "tensorflow", "torch")


class Files:
    """PNG images and NPY masks."""

    error = None

    def __init__(self, data, folder):
        self._size = data.image_size
        self._paths = np.array(json.loads((folder / "files.json").read_text()))

    def __len__(self):
        return len(self._paths)

    def load(self, index):
        shape = [self._size, self._size, 1]

        def read(paths):
            content = tf.io.read_file(paths[1])
            pixels = tf.strings.substr(content, -(self._size**2), self._size**2)
            mask = tf.reshape(tf.io.decode_raw(pixels, tf.uint8), shape)
            return mask, tf.ensure_shape(tf.io.decode_png(tf.io.read_file(paths[0]), 1), shape)

        types = (tf.TensorSpec(shape, tf.uint8),) * 2
        pairs = tf.map_fn(read, tf.gather(self._paths, index), fn_output_signature=types)
        return dict(zip(("source", "target"), pairs, strict=True))


class PngRecords:
    """An ArrayRecord of PNG images and masks."""

    error = None

    def __init__(self, data, folder):
        self._size = data.image_size
        options = "readahead_buffer_size:0,max_parallelism:0"
        self._reader = ArrayRecordReader(f"{folder}/png.array_record", options=options)

    def __len__(self):
        return self._reader.num_records()

    def load(self, index):
        def read(index):
            return np.array(self._reader.read(index.tolist()), object)

        serialized = tf.numpy_function(read, [index], tf.string, stateful=False)
        feature = tf.io.FixedLenFeature([], tf.string)
        names = ("source", "target")
        features = tf.io.parse_example(
            tf.ensure_shape(serialized, index.shape), dict.fromkeys(names, feature)
        )
        shape = [self._size, self._size, 1]
        return {
            name: tf.map_fn(
                lambda png: tf.ensure_shape(tf.io.decode_png(png, 1), shape),
                features[name],
                fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            )
            for name in names
        }


READERS = {"files": Files, "png_records": PngRecords}
OURS = {
    "none": "ArrayRecord of raw uint8 (cache=none)",
    "files": "PNG + NPY files",
    "png_records": "ArrayRecord of PNG",
    "host": "host memory (cache=host)",
    "device": "device memory, gathered in jit (cache=device)",
}
PYTORCH = {
    "files": "PyTorch DataLoader, Pillow + NumPy files",
    "memmap": "PyTorch DataLoader, memory-mapped uint8",
}


def main():
    if FLAGS.output:
        options.claim(FLAGS.output)
    with tempfile.TemporaryDirectory() as folder:
        if not all(value.isdecimal() for value in FLAGS.mask_values):
            raise DataError(f"--mask_values is {','.join(FLAGS.mask_values)}: use e.g. 0,1,2")
        unique, data = write_data(
            Path(folder),
            FLAGS.source,
            tuple(map(int, FLAGS.mask_values)),
            FLAGS.image_size,
            FLAGS.batch_size,
            FLAGS.examples,
        )
        print(
            f"{FLAGS.examples} pairs of {data.image_size} x {data.image_size}, {unique} different "
            f"ones repeated; batches of {data.batch_size}; {report.available_cores()} cores"
        )
        rows = []
        for augmented in (False, True):
            fields = {"flip": augmented, "load_size": augmented * enlarged_size(data)}
            rows += compare(data.to_dict() | fields, folder, FLAGS.seconds)
    if FLAGS.output:
        record = {
            "command": " ".join(["python -m launch.benchmark.input", *sys.argv[1:]]),
            "machine": report.machine() | {"jax_device": jax.devices()[0].device_kind},
            "versions": versions(),
            "pairs": {"all": FLAGS.examples, "different": unique, "size": data.image_size},
            "results": rows,
        }
        options.save(FLAGS.output, record)


def enlarged_size(data):
    return round(data.image_size * 286 / 256)  # as pix2pix does


def write_data(folder, source, mask_values, size, batch_size, examples):
    """Writes the same pairs in every format, stored as training reads them.

    Returns:
        (number of different pairs, config.data).

    Raises:
        DataError: as launch.prepare; or there are fewer examples than a batch has.
    """
    order.steps_per_epoch(examples, batch_size)
    source = prepared.SAMPLES / "chest_ct" if source == "sample" else Path(source)
    data = ml_collections.ConfigDict(
        {
            "dataset": "lidc_masks",
            "data_dir": str(folder / "source"),
            "sample": "",
            "image_size": size,
            **DATASETS["lidc_masks"].Config(stored_size=size, mask_values=mask_values).options,
            "batch_size": batch_size,
            "seed": 0,
            "source": "mask",
            "target": "image",
            "source_channels": 1,
            "source_type": "uint8",
            "target_type": "uint8",
            "cache": "none",
            "flip": False,
            "load_size": 0,
            "patch_size": 0,
            "depth": 0,
            "empty_slices": 1.0,
            "repeat": 1,
            "on_error": "raise",
            "context": 0,
        }
    )

    def prepare_from(source):
        with contextlib.redirect_stdout(io.StringIO()):
            prepare("lidc_masks", source, data.data_dir, **options_of(data))

    prepare_from(source)
    pairs = pipeline.train_set(data)
    unique = min(len(pairs["source"]), examples)
    repeated = np.arange(examples) % unique
    encoded = [
        {name: _png(images[i, ..., 0]) for name, images in pairs.items()} for i in range(unique)
    ]

    def write_pair(split, patient, number, i):
        place = folder / "files" / split / "clean"
        place.mkdir(parents=True, exist_ok=True)
        png = place / f"{patient}_slice_{number:04d}.png"
        npy = place / f"{patient}_lung_mask_{number:04d}.npy"
        png.write_bytes(encoded[i]["target"])
        np.save(npy, pairs["source"][i, ..., 0])
        return str(png), str(npy)

    paths = [
        write_pair("train", f"P{number // 1000:06d}", number % 1000, i)
        for number, i in enumerate(repeated)
    ]
    write_pair("val", "V", 0, 0)
    write_pair("test", "T", 0, 0)
    (folder / "files.json").write_text(json.dumps(paths))
    for name, images in pairs.items():
        np.save(folder / f"{name}.npy", images[repeated])
    writer = ArrayRecordWriter(f"{folder}/png.array_record", "group_size:1,uncompressed")
    for i in repeated:
        features = {
            name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
            for name, png in encoded[i].items()
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        writer.write(example.SerializeToString())
    writer.close()

    classes = len(mask_values)  # stored: 254 * class / (classes - 1)
    data.mask_values = tuple(np.rint(254 * np.arange(classes) / (classes - 1)).astype(int).tolist())
    data.data_dir = str(folder / "data")
    prepare_from(folder / "files")
    steps = range(4 * order.steps_per_epoch(examples, batch_size))
    order_of = tf.function(lambda step: order.global_indices(data.seed, step, batch_size, examples))
    np.save(folder / "order.npy", [order_of(tf.constant(step)) for step in steps])
    return unique, data


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def compare(fields, folder, seconds):
    """Measures and prints all ways with or without augmentation. -> list of JSON rows.

    Args:
        fields: config.data as a dict.

    Raises:
        DataError: two ways differ in a batch.
    """
    mode = f"flip, resize to {fields['load_size']}, crop" if fields["flip"] else "plain"
    titles = ("pairs/s", "/CPU s", "peak MB", "imports", "start s", "at 10^6")
    print(f"\n{mode:54}" + "".join(f"{title:>9}" for title in titles))
    rows, digests = [], None
    for name, label in OURS.items():
        # Spawned, as TensorFlow and JAX do not survive a fork.
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            row = pool.submit(run_ours, name, fields, folder, seconds, digests).result()
        digests = digests or row["digests"]
        rows.append({"name": label, "augmented": fields["flip"]} | row)
        _print_row(rows[-1])
    if not importlib.util.find_spec("torch"):
        print("PyTorch's DataLoader is left out: pip install -e '.[peer]'")
        return rows
    for name, label in PYTORCH.items():
        runs = [run_torch(name, fields, folder, seconds, workers) for workers in WORKERS]
        best = max(runs, key=lambda row: row["pairs_per_second"])
        if not fields["flip"] and digests and best["digest"] != digests[0]:
            raise DataError(f"the batches of {label} are not those of {OURS['none']}")
        label = f"{label}, {best['workers']} workers"
        all_runs = {row["workers"]: row["pairs_per_second"] for row in runs}
        rows.append({"name": label, "augmented": fields["flip"], "by_workers": all_runs} | best)
        _print_row(rows[-1])
    return rows


def run_ours(name, fields, folder, seconds, expected=None):
    """Checks and measures one of OURS, in this process.

    Args:
        expected: digests of the right batches, at the start and at meter.FAR.

    Raises:
        DataError: its batches are not the expected ones.
    """
    data = ml_collections.ConfigDict(fields)
    data.cache = name if name in pipeline.CACHES else "none"
    imports = meter.peak_mb()
    size = (data.image_size, data.image_size)
    gather = jax.jit(lambda dataset, batch: device_cache.gather(dataset, batch, size))
    one_device = jax.make_mesh((1, 1), ("data", "fsdp"), devices=jax.devices()[:1])

    def batches_from(step):
        deliver = jax.device_put
        if name == "device":
            dataset = device_cache.put(pipeline.train_set(data), one_device)
            deliver = functools.partial(gather, dataset)
        if name in READERS:
            batches = pipeline.stream(READERS[name](data, Path(folder)), data, step, 2 * meter.FAR)
        else:
            batches = pipeline.train_batches(data, step, 2 * meter.FAR)
        for batch in batches:
            yield jax.block_until_ready(deliver(batch))

    digests = []
    for step in (0, meter.FAR):
        digest = hashlib.sha256()
        for batch in itertools.islice(batches_from(step), CHECK_STEPS):
            for key in ("source", "target"):
                digest.update(np.asarray(batch[key]).tobytes())
        digests.append(digest.hexdigest())
    if expected and digests != expected:
        raise DataError(f"the batches of {OURS[name]} are not those of {OURS['none']}")
    figures = meter.measure(batches_from, [0, meter.FAR], seconds, data.batch_size)
    return figures | {"digests": digests, "imports_mb": imports}


def run_torch(name, fields, folder, seconds, workers):
    """Measures one of PYTORCH, in a process without TensorFlow and JAX."""
    arguments = {
        "contender": name,
        "folder": folder,
        "size": fields["image_size"],
        "load_size": fields["load_size"],
        "workers": workers,
        "batch_size": fields["batch_size"],
        "seconds": seconds,
        "check_steps": CHECK_STEPS,
    }
    module = "launch.benchmark.input_torch"
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout) | {"workers": workers}


def _print_row(row):
    start = {int(step): seconds for step, seconds in row["startup_seconds"].items()}
    far = f"{start[meter.FAR]:9.2f}" if meter.FAR in start else f"{'-':>9}"
    print(
        f"{row['name']:54}{row['pairs_per_second']:9.0f}{row['pairs_per_cpu_second']:9.0f}"
        f"{row['peak_mb']:9.0f}{row['imports_mb']:9.0f}{start[0]:9.2f}{far}",
        flush=True,
    )


def versions():
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _define_flags():
    """Not run at import: two commands may share a flag's name, and tests import both."""
    flags.DEFINE_string("source", "sample", "folder as for launch.prepare, or sample")
    flags.DEFINE_list("mask_values", "0,1,2", "pixel values of class 0, 1, ... in the source")
    flags.DEFINE_integer("image_size", 128, "height and width, in pixels", lower_bound=8)
    flags.DEFINE_integer("batch_size", 64, "pairs per batch", lower_bound=1)
    flags.DEFINE_integer("examples", 4096, "number of pairs, after repetition", lower_bound=1)
    flags.DEFINE_float("seconds", 2.0, "seconds to measure each way", lower_bound=0.01)
    flags.DEFINE_string("output", None, "JSON file for the figures")


if __name__ == "__main__":
    _define_flags()
    command.run(main)
