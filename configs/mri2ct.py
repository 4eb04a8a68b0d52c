"""MRI -> synthetic CT in Hounsfield units: pix2pix with a shallow U-Net.

    python -m launch.prepare --config=configs/mri2ct.py --source=DIR
    python -m launch.train --config=configs/mri2ct.py --workdir=runs/mri2ct
    python -m launch.evaluate --workdir=runs/mri2ct

Data: registered volumes in the layout of SynthRAD2023 and 2025, or listed in a pairs.csv; or paired
PNG or JPG images. MR is scaled per volume by percentiles inside the body; CT is kept in HU. Slices
of 256 x 256, split by patient.

Generator: U-Net, four halvings, with skips. Discriminator: PatchGAN on (MR, CT), four strided
convolutions and one to 15 x 15 logits. Batch norm in both.
Loss: D (BCE(real, 1) + BCE(fake, 0)) / 2; G BCE(fake, 1) + 100 L1 over the whole slice.

To compare with: the best entry of SynthRAD2025, MR to CT, has an MAE of 64.8 +- 21.3 HU inside the
body, a PSNR of about 30 dB and an MS-SSIM of about 0.936; its Dice of 0.79 is of TotalSegmentator's
organs, not of the air, soft tissue and bone that are scored here. Elsewhere, plain pix2pix on
brains has an MAE of 79.7 +- 9.5 HU. Figures depend on their protocol. `launch.evaluate` names its
own; it scores slices padded and resized to image_size, and leaves out slices without a body. The
challenge scores native voxels, as `launch.predict --reference` does.
As published (`configs/mri2ct.py:as_published`): no skips, though its README mentions them, and
8-bit images, which the data set also reads; data.image_window_hu gives the HU of 0 and 255.

`configs/base.py` has further options of the networks and the loss; `:extended` turns on attention
gates, 2.5D input, feature matching, the structures' Dice and the average of the weights.

`configs/mri2ct.py:quickstart` trains a small model in minutes on two CPU cores on an embedded pair
of templates, averages of many heads: it shows that all works, but is no evidence of accuracy.
"""

from configs.base import add_pix2pix, check_variant, get_base

VARIANTS = ("as_published", "extended", "quickstart")


def get_config(variant=""):
    check_variant("mri2ct", variant, VARIANTS)
    config = get_base()
    config.system = "mri2ct"
    config.task = "synthetic_ct"

    config.data.dataset = "mri_ct"
    config.data.source, config.data.target = "image", "ct"
    config.data.modality = "mr"  # or "cbct", or "ct" where source and CT are one volume, in HU
    config.data.plane = "axial"  # or "coronal", "sagittal": which slices of volumes
    config.data.mr_percentiles = (0.5, 99.5)  # inside the body, mapped to black and white
    config.data.resample = False  # MR and mask to the CT's voxels; else they must share its grid
    config.data.image_window_hu = (-1024, 3071)  # HU of 0 and 255 in 8-bit images
    config.data.source_side = "left"  # of an image that holds both, side by side
    # Group 1 is the patient of a picture. The pattern is matched against the name without ending
    # or, if it has a "/", the path within the source, such as trainA/0001; then also for volumes in
    # folders, against brain/1BA001/mr, whose patient is else the folder. A plain number counts as a
    # patient, which is wrong where neighbouring slices are 0001.png, 0002.png: set another pattern
    # there.
    config.data.patient_pattern = (
        r"(.+?)(?:[_-](?:(?:slice|view|img|image|im|frame|scan|ses|run|v|s)[_-]?)?\d+)?"
    )
    config.data.test_fraction = 0.15  # of the patients
    config.data.validation_fraction = 0.1  # of the others
    config.data.image_size = 256
    config.data.stored_size = config.data.get_ref("image_size")
    config.data.source_type = "uint16"
    config.data.source_range = (0, 65535)
    config.data.target_type = "int16"  # HU
    config.data.window_hu = (-1024, 3000)  # of the CT, mapped to [-1, 1]
    config.data.batch_size = 2

    add_pix2pix(config)
    config.generator.depth = 4  # 256 to 16 pixels
    config.generator.norm = "batch"
    config.generator.dropout_levels = 0
    config.discriminator.strided_levels = 4
    config.discriminator.dense_levels = 0
    config.discriminator.norm = "batch"

    if variant == "as_published":
        config.generator.skips = False
    elif variant == "extended":
        config.data.context = 1
        # Batch norm's running statistics belong to the current weights, not to their average.
        config.generator.norm = "instance"
        config.discriminator.norm = "instance"
        config.generator.attention_gates = True
        config.loss.feature_matching_weight = 10.0
        config.loss.structure_weight = 5.0
        config.ema_decay = 0.999
    elif variant == "quickstart":
        config.data.data_dir = "data/sample"
        config.data.sample = "brain_templates"
        config.data.image_size = 128
        config.data.window_hu = (-20, 100)  # all but 0.043 % of the brain's 2 to 188 HU
        config.data.flip = True
        config.generator.width = 16
        # An instance norm would divide by how much of a slice is brain.
        config.generator.norm = "none"
        config.discriminator.width = 16
        config.discriminator.norm = "instance"
        config.loss.adversarial_weight = 0.1  # averages have little texture
        config.optimizer.learning_rate = 1e-3
        config.ema_decay = 0.99
        config.epochs = 120
        config.constant_epochs = 60
        config.text_log_every_epochs = 10
        config.sample_every_epochs = 20
        config.checkpoint_every_epochs = 20
    return config
