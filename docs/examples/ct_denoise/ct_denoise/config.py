"""Low-dose CT -> CT. Any CT will do: the noise is drawn while training.

    python -m launch.prepare --config=ct_denoise/config.py --source=DIR
    python -m launch.train --config=ct_denoise/config.py --workdir=runs/ct_denoise
    python -m launch.evaluate --workdir=runs/ct_denoise
    python -m launch.predict --workdir=runs/ct_denoise --input=low_dose.nii.gz --output=sct.nii.gz

Data: DIR/PATIENT/ct.nii.gz and so on, or a pairs.csv that names a CT as source and ct.
"""

from configs import mri2ct


def get_config(variant=""):
    config = mri2ct.get_config(variant)  # a U-Net with skips, a PatchGAN, HU in its window
    config.system = "ct_denoise"
    config.task = "synthetic_ct"  # so it is predicted and judged as synthetic CT is
    config.data.modality = "ct"
    low, high = config.data.window_hu = (-1024, 1000)
    # The same window of the source, which is stored in sixteenths of a HU above -1024; change both.
    config.data.source_range = ((low + 1024) * 16, (high + 1024) * 16)
    config.noise_hu = 40.0  # standard deviation of white noise, about that of a quarter of the dose
    config.loss.squared_error_weight = 10.0
    return config
