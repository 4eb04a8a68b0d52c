"""Chest X-ray -> lung mask: pix2pix as a segmentation network.

    python -m launch.prepare --config=configs/xray_lungs.py --source=Montgomery
    python -m launch.train --config=configs/xray_lungs.py --workdir=runs/xray_lungs

Data: img/ and mask/ by file name, Montgomery, Shenzhen or JSRT with SCR masks, split 80/20 by
patient. Stored at 512 x 512; training resizes to 286, crops 256 and flips, both images alike.

Generator: U-Net, 256 pixels to 1 and back, no bias but in the last layer, no norm at the single
pixel. Discriminator: PatchGAN on (X-ray, mask), 30 x 30 logits.
Loss: D BCE(real, 1) + BCE(fake, 0), without a half; G BCE(fake, 1) + 100 L1 of masks in [-1, 1].

To compare with, at threshold 0.5 and averaged over test images: IoU 0.8942 and Dice 0.9382 as
published for this system; the best found elsewhere are IoU / Dice 0.956 / 0.972 (Montgomery) and
0.971 / 0.985 (JSRT), of U-Nets in five-fold validation.
As published (`configs/xray_lungs.py:as_published`): RGB source, batch norm at batch size 1, and
dropout at test time. At batch size 1, batch norm trains on the statistics of one image but
evaluates with running ones, which is a different function. The default is instance norm.

`configs/xray_lungs.py:quickstart` trains a small model on simulated X-rays, projections of the
embedded chest CT, in minutes on two CPU cores.
"""

import ml_collections

from configs.base import add_pix2pix, check_variant, get_base

# A patient in the name of a picture: 00000003 of 00000003_001, patient-12 of patient-12_3, A of
# A_view_0012, but all of IMG_0001, where no number is left without the last.
_OF_SEVERAL = r"(?:slice|view|img|image|im|frame|scan|ses|run|v|s)[_-]?"
PATIENT = rf"(.*\d[^_-]*(?=[_-](?:{_OF_SEVERAL})?\d+$)|.+(?=[_-]{_OF_SEVERAL}\d+$)|.+)"
VARIANTS = (
    "as_published",
    "quickstart",
)


def get_config(variant=""):
    check_variant("xray_lungs", variant, VARIANTS)
    config = get_base()
    config.system = "xray_lungs"
    config.task = "xray_masks"

    config.data.dataset = "xray_lungs"
    config.data.source, config.data.target = "image", "mask"
    config.data.stored_size = 512
    config.data.image_size = 256
    config.data.load_size = 286
    config.data.flip = True
    # Group 1 is the patient in a file's name without ending: 00000003 of 00000003_001, but all of
    # IMG_0001 or JPCLN001. "(.*)" says that each file is a patient of its own.
    config.data.patient_pattern = PATIENT
    config.data.test_fraction = 0.2  # of the patients
    config.data.validation_fraction = 0.1  # of the others
    config.data.source_range = (0, 255)
    config.data.batch_size = 1

    add_pix2pix(config)
    config.generator.depth = 8  # 256 pixels to 1
    config.generator.use_bias = False
    config.loss.discriminator_weight = 1.0

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.regions = ml_collections.ConfigDict({"lungs": (1,)})
    config.evaluation.threshold = 0.5
    config.evaluation.per = "image"  # scores are means over images
    config.evaluation.mc_dropout = 0  # stochastic passes that are averaged; 0: one without dropout

    if variant == "as_published":
        config.data.source_channels = 3
        config.generator.norm = "batch"
        config.discriminator.norm = "batch"
        config.evaluation.mc_dropout = 1
    elif variant == "quickstart":
        config.data.data_dir = "data/sample"
        config.data.sample = "xray_simulated"
        config.data.stored_size = 286
        config.data.validation_fraction = 0.125  # whole angles of the simulated sample
        config.generator.width = 16
        config.discriminator.width = 16
        config.epochs = 40
        config.constant_epochs = 20
        config.text_log_every_epochs = 1
        config.sample_every_epochs = 5
        config.checkpoint_every_epochs = 5
    return config
