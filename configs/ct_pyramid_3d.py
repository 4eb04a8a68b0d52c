"""Noise -> chest CT in 3D: a pyramid of small GANs, each on the coarser ones (CT-GAN, SinGAN).

    python -m launch.prepare --config=configs/ct_pyramid_3d.py --source=LUNA16
    python -m launch.train --config=configs/ct_pyramid_3d.py --workdir=runs/ct_pyramid_3d
    python -m launch.predict --workdir=runs/ct_pyramid_3d --output=volumes --count=16

Data: LUNA16, .mhd and .raw. With data.crops=0 a volume is resized to the finest scale whatever its
aspect; with data.crops=N examples are N crops of each volume in its own voxels. One scan is enough.
Scales: 28, 42, 63, 94 and 141 pixels a side, with a sixth as many slices.

Generator of a scale: five k3 convolutions on the coarser image and noise, added to that image.
Discriminator: five k3 convolutions. Weights start from those of the coarser scale.
Loss: LSGAN (real 1, fake 0; G wants 0.9) + 100 MSE of the reconstruction of each training volume
from its fixed noise + 100 of its mean- and maximum-intensity projections + 10 of the lungs that a
frozen segmentation network finds in it. Three updates of D, then three of G an iteration.

To compare with, for the reconstruction at the finest scale in [0, 1], which measures
memorisation: MSE .0054, PSNR 22.6 dB, SSIM .751 (adversarial alone); .0025, 26.0, .836 (with
reconstruction); .0024, 26.1, .843 (and projection); .0017, 27.93, .877 (and segmentation).
`launch.ablation` makes this table.
As published (`configs/ct_pyramid_3d.py:as_published`): the projection is three boundary
slices, the segmentation passes no gradient, and noise has the full amplitude of the error and
extends beyond the borders.

`configs/ct_pyramid_3d.py:quickstart` trains three scales on the embedded chest CT in minutes on two
CPU cores.
"""

import ml_collections

from configs.base import check_variant, get_base

VARIANTS = ("as_published", "quickstart")


def get_config(variant=""):
    check_variant("ct_pyramid", variant, VARIANTS)
    config = get_base()
    config.system = "ct_pyramid"
    config.task = "ct_samples"

    config.data.dataset = "luna16"
    config.data.source, config.data.target = "image", "image"
    config.data.source_type = config.data.target_type = "int16"  # HU
    config.data.image_size = 141  # of the finest scale
    config.data.stored_size = config.data.get_ref("image_size")
    config.data.depth = 23
    config.data.clip_hu = (-1000, 1000)
    config.data.source_range = config.data.get_ref("clip_hu")
    config.data.crops = 0  # of each volume; 0: whole volumes, resized
    config.data.isotropic_mm = 0.0  # spacing to resample to first; 0: as in the file
    config.data.lung_masks = False
    config.data.test_subsets = (9,)
    config.data.validation_subsets = (8,)
    config.data.test_fraction = 0.15  # of the patients whose volumes are in no subset folder
    config.data.validation_fraction = 0.1
    # Millimetres between slices, rows and columns of the training volumes at the finest scale, the
    # median over volumes; filled in before training, for sampled volumes.
    config.data.spacing_mm = (0.0, 0.0, 0.0)
    config.data.batch_size = 1
    config.data.repeat = 100  # iterations an epoch for one scan; use 1 for many scans

    config.pyramid = ml_collections.ConfigDict()
    config.pyramid.dimensions = 3
    config.pyramid.min_size = 28  # pixels a side at the coarsest scale
    config.pyramid.max_size = 140  # the finest is the first that reaches it
    config.pyramid.factor = 1.5
    config.pyramid.depth_divisor = 6  # pixels a side over slices
    config.pyramid.scale = 0  # set by the loop over scales
    config.pyramid.border_noise = False  # noise beyond the borders too, which hides positions
    config.pyramid.noise_factor = 0.1  # times the reconstruction's error; the coarsest scale has 1
    config.pyramid.discriminator_updates = 3  # an iteration
    config.pyramid.generator_updates = 3

    config.generator = ml_collections.ConfigDict()
    config.generator.width = 32
    config.generator.norm = "batch"  # or "instance", "none"

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.width = 16
    config.discriminator.norm = "batch"

    config.loss = ml_collections.ConfigDict()
    config.loss.adversarial = "lsgan"  # or "wgan", with a gradient penalty
    config.loss.adversarial_weight = 1.0
    config.loss.gradient_penalty_weight = 0.0  # SinGAN uses 0.1
    config.loss.reconstruction_weight = 100.0
    config.loss.projection_weight = 100.0
    config.loss.projection = "intensity"  # or "boundary_slices"
    config.loss.segmentation_weight = 10.0
    config.loss.segmentation_weights_file = ""  # "": the embedded lung segmenter
    config.loss.segmentation_gradient = True

    config.epochs = 10  # of the coarsest scale; scale s has s + 1 times as many
    del config.constant_epochs  # the rate falls to a tenth for the last fifth
    config.optimizer.learning_rate = 5e-4

    if variant == "as_published":
        config.pyramid.noise_factor = 1.0
        config.pyramid.border_noise = True
        config.loss.projection = "boundary_slices"
        config.loss.segmentation_gradient = False
    elif variant == "quickstart":
        config.data.data_dir = "data/sample"
        config.data.sample = "chest_volumes"
        config.data.image_size = 64
        config.data.depth = 10
        config.data.repeat = 20
        config.pyramid.min_size = 16
        config.pyramid.max_size = 64
        config.pyramid.factor = 2.0
        config.generator.width = 16
        config.epochs = 2
    return config
