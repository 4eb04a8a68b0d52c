"""Abdominal CT -> liver mask in 3D: the networks of configs/liver.py on blocks of slices.

    python -m launch.prepare --config=configs/liver_3d.py --source=LiTS
    python -m launch.train --config=configs/liver_3d.py --workdir=runs/liver_3d

The prepared data is that of `configs/liver.py`. Training crops 96 x 96 from runs of 32 slices;
evaluation sees the whole plane. The networks are narrower, since a k3 layer costs three times as
much in 3D. There are fewer epochs, since a slice is in as many examples as a run has slices.

The variants are those of `configs/liver.py`. `as_published` splits by slice, which leaves no runs:
use `--config.data.split_by=volume` with it.
"""

from configs import liver


def get_config(variant=""):
    config = liver.get_config(variant)
    config.data.depth = 32
    config.data.patch_size = 96
    config.data.empty_slices = 1.0  # runs of slices have no gaps
    config.data.batch_size = 8
    config.epochs = 20
    config.constant_epochs = 10
    config.generator.width = 32
    config.discriminator.width = 32
    if variant == "quickstart":
        config.data.depth = 16  # more than the test's slices, which are padded to a run
        config.data.test_fraction = 0.15
        config.data.validation_fraction = 0.1
        config.data.patch_size = 64
        config.epochs = 40
        config.constant_epochs = 20
        config.data.batch_size = 2
        config.generator.width = 16
        config.discriminator.width = 8
    return config
