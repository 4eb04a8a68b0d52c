"""MRI -> synthetic CT in 3D: the networks of configs/mri2ct.py on blocks of slices.

    python -m launch.prepare --config=configs/mri2ct_3d.py --source=DIR
    python -m launch.train --config=configs/mri2ct_3d.py --workdir=runs/mri2ct_3d

The prepared data is that of `configs/mri2ct.py`. Training crops 128 x 128 from runs of 32 slices;
`launch.predict` blends patches that overlap. The networks are narrower, and instance norm replaces
batch norm, whose statistics of two patches are poor. There are fewer epochs, since a slice is in as
many examples as a run has slices. The variants are those of `configs/mri2ct.py`, whose 2.5D input
has no meaning here.
"""

from configs import mri2ct


def get_config(variant=""):
    config = mri2ct.get_config(variant)
    config.data.depth = 32
    config.data.patch_size = 128
    config.data.context = 0
    config.epochs = 20
    config.constant_epochs = 10
    config.generator.width = 32
    config.generator.norm = "instance"
    config.discriminator.width = 32
    config.discriminator.norm = "instance"
    if variant == "quickstart":
        config.data.depth = 16
        config.data.patch_size = 64
        config.generator.width = 16
        config.discriminator.width = 16
        config.discriminator.strided_levels = 3  # four would leave 16 slices no logit
        config.generator.norm = "none"
        config.epochs = 40
        config.constant_epochs = 20
    return config
