"""Lung mask -> CT slice, with SSIM in the generator's loss: the flagship.

    python -m launch.prepare --config=configs/lidc_mask2ct.py --source=dataset_lidc_masks
    python -m launch.train --config=configs/lidc_mask2ct.py --workdir=runs/lidc_mask2ct

Data: {train,test}/{with_nodules,clean}/LIDC-IDRI-XXXX_slice_YYYY.png with a lung mask or a
combined (lung and nodule) mask as .npy, resized to 128 x 128.

Generator: U-Net, 128 to 2 pixels and back, 29,235,585 parameters. Discriminator: PatchGAN on
(mask, CT), 14 x 14 logits, 2,763,713 parameters. Instance norm in both.
Loss: D (BCE(real, 1) + BCE(fake, 0)) / 2; G BCE(fake, 1) + 100 L1 + 5 (1 - SSIM).

The published run reports an SSIM of 0.9232 at epoch 200, on its training set, with dropout on
and the CT masked to the lungs, which inflates it; no figure on a test set was published.
As published, masks are resized bilinearly (`--config.data.mask_resize=bilinear`). The default is
nearest, so that classes stay classes.

`configs/lidc_mask2ct.py:quickstart` trains a small model on the embedded chest CT in minutes on
two CPU cores; the first run prepares the data.
"""

from configs.base import add_pix2pix, check_variant, get_base

VARIANTS = ("quickstart",)


def get_config(variant=""):
    check_variant("lidc_mask2ct", variant, VARIANTS)
    config = get_base()
    config.system = "lidc_mask2ct"
    config.task = "ct_slices"

    config.data.dataset = "lidc_masks"
    config.data.source, config.data.target = "mask", "image"
    config.data.image_size = 128
    config.data.stored_size = config.data.get_ref("image_size")  # as prepared
    config.data.mask_resize = "nearest"
    config.data.mask_values = (0, 1, 2)  # on disk: outside, lung, nodule
    # Group 1 is the patient in what is before _slice_0001: 00000003 of 00000003_001.
    config.data.patient_pattern = r"(\d+(?=[_-]\d+$)|.+)"
    config.data.validation_fraction = 0.1  # of the training patients, if there is no val/ folder
    config.data.source_range = (0, 254)  # stored masks, 127 a class, -> [-1, 1]
    config.data.target_range = (0, 255)
    config.data.window_hu = (-1000, 400)  # of target_range, for errors in HU

    add_pix2pix(config)  # 128 to 2 pixels and back; receptive field 70
    config.loss.ssim_weight = 5.0

    if variant == "quickstart":
        config.data.data_dir = "data/sample"
        config.data.sample = "chest_ct"
        config.data.batch_size = 2  # many small steps: vessels appear within minutes
        config.generator.width = 32
        config.discriminator.width = 32
        config.epochs = 18
        config.constant_epochs = 9
        config.sample_every_epochs = 3
        config.checkpoint_every_epochs = 3
    return config
