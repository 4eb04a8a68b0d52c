"""PyTorch's DataLoader on the files of launch.benchmark.input, which starts this command.

    python -m launch.benchmark.input_torch JSON

Prints JSON. It is a command of its own, so that its workers load neither TensorFlow nor JAX.
"""

import hashlib
import itertools
import json
import sys
import warnings

import numpy as np
import torch.utils.data
from PIL import Image

from launch.benchmark import meter
from launch.process import gc_tuning


class Pairs(torch.utils.data.Dataset):
    """Whole batches (source, target), uint8 [b, S, S, 1]: list of indices -> two arrays."""

    def __init__(self, size, load_size):
        super().__init__()
        self._size, self._load_size = size, load_size

    def __getitem__(self, indices):
        pairs = [self._augmented(index, *self.read(index)) for index in indices]
        source, target = zip(*pairs, strict=True)
        return np.stack(source)[..., None], np.stack(target)[..., None]

    def read(self, index) -> tuple[np.ndarray, np.ndarray]:
        """(mask, image), uint8 [S, S]."""
        raise NotImplementedError

    def _augmented(self, index, mask, image):
        if not self._load_size:
            return mask, image
        rng = np.random.default_rng(index)
        y, x = rng.integers(0, self._load_size - self._size + 1, 2)
        step = -1 if rng.random() < 0.5 else 1

        def crop(pixels, method):
            pixels = Image.fromarray(pixels).resize((self._load_size, self._load_size), method)
            return np.asarray(pixels)[y : y + self._size, x : x + self._size][:, ::step]

        nearest, bilinear = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
        return crop(mask, nearest), crop(image, bilinear)


class Files(Pairs):
    """PNG images and NPY masks, read with Pillow and NumPy."""

    def __init__(self, folder, size, load_size):
        super().__init__(size, load_size)
        with open(f"{folder}/files.json", encoding="utf-8") as file:
            self._paths = json.load(file)

    def read(self, index):
        png, npy = self._paths[index]
        with Image.open(png) as image:
            return np.load(npy), np.asarray(image)


class Memmap(Pairs):
    """All images in one memory-mapped array."""

    def __init__(self, folder, size, load_size):
        super().__init__(size, load_size)
        self._source, self._target = (
            np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("source", "target")
        )

    def read(self, index):
        return self._source[index, ..., 0], self._target[index, ..., 0]

    def __getitem__(self, indices):
        if self._load_size:
            return super().__getitem__(indices)
        return self._source[indices], self._target[indices]  # without a loop


DATASETS = {"files": Files, "memmap": Memmap}


def main(contender, folder, size, load_size, workers, batch_size, seconds, check_steps):
    imports = meter.peak_mb()
    dataset = DATASETS[contender](folder, size, load_size)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
    order = np.load(f"{folder}/order.npy").tolist()  # of the first steps

    def batches_from(step):
        loader = torch.utils.data.DataLoader(
            dataset,
            sampler=itertools.islice(itertools.cycle(order), step, None),
            batch_size=None,  # a sample is a batch
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        return iter(loader)

    digest = hashlib.sha256()
    for batch in itertools.islice(batches_from(0), check_steps):
        for images in batch:
            digest.update(images.numpy().tobytes())
    figures = meter.measure(batches_from, [0], seconds, batch_size, workers)
    return figures | {"digest": digest.hexdigest(), "imports_mb": imports}


if __name__ == "__main__":
    gc_tuning.leave_imports_alone()  # as in the command that measures the others
    print(json.dumps(main(**json.loads(sys.argv[1]))))
