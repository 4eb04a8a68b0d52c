"""Noise -> chest CT in 2D: the pyramid of configs/ct_pyramid_3d.py, a slab's slices as channels.

    python -m launch.prepare --config=configs/ct_pyramid_2d.py --source=LUNA16
    python -m launch.train --config=configs/ct_pyramid_2d.py --workdir=runs/ct_pyramid_2d

The prepared data is that of `configs/ct_pyramid_3d.py`. Scales differ only in the plane. Generator
of a scale: 256 channels, halved three times by max-pooling and doubled again, without skips.

To compare with, as there: MSE .00011, PSNR 39.49 dB, SSIM .988 (adversarial and reconstruction),
.00049, 33.09, .955 (+ projection), .00032, 34.93, .967 (+ projection and segmentation), .00006,
41.97, .9956 (+ segmentation). The variants are those of `configs/ct_pyramid_3d.py`.
"""

from configs import ct_pyramid_3d


def get_config(variant=""):
    config = ct_pyramid_3d.get_config(variant)
    config.pyramid.dimensions = 2
    config.generator.width = 256
    if variant != "as_published":
        # Running statistics of one image mix samples and reconstructions, and fit neither.
        config.generator.norm = "instance"
    config.discriminator.width = 64
    if variant == "quickstart":
        config.generator.width = 32
        config.discriminator.width = 32
        config.epochs = 10
    return config
