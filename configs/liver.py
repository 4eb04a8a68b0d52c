"""Abdominal CT -> liver mask, with a critic that compares masked images (SegAN).

    python -m launch.prepare --config=configs/liver.py --source=LiTS
    python -m launch.train --config=configs/liver.py --workdir=runs/liver

Data: LiTS volume-N.nii and segmentation-N.nii, or Task03_Liver of the Medical Segmentation
Decathlon. Slices of 160 x 160 in HU, in the window [-200, 300], split 85/15 by volume. The liver is
every label above 0, tumours included, as LiTS scores it.

Generator: four strided convolutions and three of k3 with nearest-neighbour doubling; a sigmoid at
full resolution. Critic: three convolutions k3 at full resolution of image x mask, its weights
clipped; the feature maps of all layers, pooled to 8 x 8.
Loss: D maximises the L1 between the features of image x prediction and image x mask, averaged over
layers; G minimises L1 of the masks + 0.01 of that distance.

To compare with: the best Dice of the liver alone in the LiTS challenge, 0.963, on test volumes
whose labels are not public; tables of 0.80 to 0.82 are means of liver and tumour. With the data,
run the commands above, then `launch.evaluate`.
As published (`configs/liver.py:as_published`): the critic minimises the distance, which lets it
collapse, and is not constrained; the output is a ReLU of 2 x 2 blocks; the split is by slice, which
puts neighbouring slices of a patient on both sides. The published preparation also rounds to 8
bits before it resizes, which no option reproduces.

Variants: `tumour` adds the tumour as a class of its own, with a softmax and a soft Dice loss.
`quickstart` trains a small model on the embedded abdominal CT in minutes on two CPU cores.
"""

import ml_collections

from configs.base import check_variant, get_base

VARIANTS = ("as_published", "tumour", "quickstart")


def get_config(variant=""):
    check_variant("liver", variant, VARIANTS)
    config = get_base()
    config.system = "liver"
    config.task = "ct_masks"
    config.dtype = "bfloat16"

    config.data.dataset = "liver_ct"
    config.data.source, config.data.target = "image", "mask"
    config.data.source_type = "int16"  # HU
    config.data.image_size = 160
    config.data.stored_size = config.data.get_ref("image_size")
    config.data.source_range = (-200, 300)  # the window in HU
    config.data.empty_slices = 0.1  # most slices hold no liver; validation and test use all
    config.data.test_fraction = 0.15  # of the volumes
    config.data.validation_fraction = 0.1  # of the others
    config.data.split_by = "volume"
    config.data.batch_size = 10

    config.generator = ml_collections.ConfigDict()
    config.generator.width = 64
    config.generator.classes = 1  # or several with the background, by a softmax
    config.generator.norm = "batch"  # or "instance", "none"
    config.generator.output = "probability"

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.width = 128
    config.discriminator.norm = "batch"
    # "clip" bounds all weights, as SegAN does. "spectral" bounds only the kernels: this bounds the
    # distance with norm "instance" or "none", but not with the free scale of "batch". Or "none".
    config.discriminator.constraint = "clip"

    config.loss = ml_collections.ConfigDict()
    config.loss.l1_weight = 1.0
    config.loss.feature_weight = 0.01
    config.loss.dice_weight = 0.0  # of the soft Dice loss, for classes of few pixels
    config.loss.critic = "maximise"  # the distance, or "minimise"
    config.loss.clip = 0.05  # bound of the critic's weights with constraint "clip"

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.regions = ml_collections.ConfigDict({"liver": (1, 2)})
    config.evaluation.threshold = 0.5
    config.evaluation.per = "volume"
    config.evaluation.mc_dropout = 0  # the generator has no dropout

    config.text_log_every_epochs = 1
    config.sample_every_epochs = 1
    config.checkpoint_every_epochs = 1

    if variant == "as_published":
        config.data.split_by = "slice"
        config.generator.output = "relu"
        config.discriminator.constraint = "none"
        config.loss.critic = "minimise"
    elif variant == "tumour":
        config.generator.classes = 3
        config.loss.dice_weight = 1.0  # with L1 alone, tumour is labelled as liver
        config.evaluation.regions = ml_collections.ConfigDict({"liver": (1, 2), "tumour": (2,)})
    elif variant == "quickstart":
        config.dtype = "float32"  # CPUs compute bfloat16 slowly
        config.data.data_dir = "data/sample"
        config.data.sample = "abdomen_ct"
        config.data.image_size = 96
        config.data.load_size = 104
        config.data.test_fraction = 0.1  # of one volume's 51 slices: a block of 5
        config.data.validation_fraction = 0.06  # the 3 slices around it
        config.data.batch_size = 4
        config.generator.width = 32
        config.discriminator.width = 16
        config.epochs = 150
        config.constant_epochs = 75
        config.sample_every_epochs = 50
        config.checkpoint_every_epochs = 10
    return config
