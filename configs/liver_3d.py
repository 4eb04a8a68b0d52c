"""Abdominal CT -> liver mask in 3D: the networks of configs/liver.py on blocks of slices.

    python -m launch.prepare --config=configs/liver_3d.py --source=LiTS
    python -m launch.train --config=configs/liver_3d.py --workdir=runs/liver_3d

The prepared data is that of `configs/liver.py`. Training crops 96 x 96 from runs of 32 slices;
evaluation sees all of the plane. The networks are half as wide: a layer of k3 costs three times
as much in 3D.
"""

from configs import liver


def get_config(variant=""):
    config = liver.get_config(variant)
    config.data.depth = 32
    config.data.patch_size = 96
    config.data.empty_slices = 1.0  # runs of slices have no gaps
    config.data.batch_size = 8
    config.generator.width = 32
    config.discriminator.width = 32
    if variant == "quickstart":
        config.data.depth = 16
        config.data.patch_size = 64
        config.data.batch_size = 2
        config.generator.width = 16
        config.discriminator.width = 8
    return config
