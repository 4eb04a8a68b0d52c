"""Chest CT -> lung mask in 3D: a small network for the segmentation loss of the CT pyramids.

    python -m launch.prepare --config=configs/lung_segmenter.py --source=LUNA16
    python -m launch.train --config=configs/lung_segmenter.py --workdir=runs/lungs
    python -m launch.evaluate --workdir=runs/lungs
    python -m launch.export_segmenter --workdir=runs/lungs --output=lungs.safetensors

Data: LUNA16's subset0 to subset9 and the masks of seg-lungs-LUNA16, split by subset. Whole volumes,
resized to 16 x 80 x 80 whatever their aspect, as the pyramids resize theirs; training crops 64 x 64
and flips, and the loss sees 16 x 64 x 64.

Generator: 3D U-Net of three halvings, 8 channels, instance norm, so that it has no batch
statistics. Loss: L1 of masks in [-1, 1] and soft Dice, without which a network trained on one
volume finds no lungs. The discriminator is as small as possible and has weight 0, since the
pyramids need probabilities rather than masks that look real.

`configs/lung_segmenter.py:quickstart` trains it on one of the two embedded chest volumes in minutes
on two CPU cores, which is how the embedded weights were made
(`jax_pix2pix/losses/weights/README.md`). It is the one with air around the body: crops of it look
like the other one, which is held out, and not the other way round.
"""

import ml_collections

from configs.base import add_pix2pix, check_variant, get_base

VARIANTS = ("quickstart",)


def get_config(variant=""):
    check_variant("lung_segmenter", variant, VARIANTS)
    config = get_base()
    config.system = "lung_segmenter"
    config.task = "resized_ct_masks"

    config.data.dataset = "luna16"
    config.data.source, config.data.target = "image", "mask"
    config.data.source_type = "int16"  # HU
    config.data.depth = 16
    config.data.image_size = 64
    config.data.stored_size = 80
    config.data.load_size = 80
    config.data.flip = True
    config.data.crops = 0  # whole volumes
    config.data.isotropic_mm = 0.0
    config.data.clip_hu = (-1000, 1000)
    config.data.lung_masks = True
    config.data.test_subsets = (9,)
    config.data.validation_subsets = (8,)
    config.data.test_fraction = 0.15  # of volumes in no subset
    config.data.validation_fraction = 0.1
    config.data.source_range = (-1000, 1000)
    config.data.batch_size = 8

    add_pix2pix(config)
    config.generator.width = 8
    config.generator.depth = 3
    config.generator.dropout = 0.0
    config.generator.dropout_levels = 0
    config.discriminator.width = 1
    config.discriminator.strided_levels = 1
    config.discriminator.dense_levels = 0
    config.discriminator.norm = "none"
    config.loss.adversarial_weight = 0.0
    config.loss.dice_weight = 100.0
    config.optimizer.learning_rate = 1e-3

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.regions = ml_collections.ConfigDict({"lungs": (1,)})
    config.evaluation.threshold = 0.5
    config.evaluation.per = "volume"
    config.evaluation.mc_dropout = 0  # the generator has no dropout

    config.epochs = 40
    config.constant_epochs = 20
    config.text_log_every_epochs = 1
    config.checkpoint_every_epochs = 5

    if variant == "quickstart":
        config.data.data_dir = "data/sample"
        config.data.sample = "chest_volumes"
        config.data.test_subsets = (0,)
        config.data.repeat = 20  # there is one volume to train on
        config.data.batch_size = 1
        config.epochs = 20
        config.constant_epochs = 10
    return config
