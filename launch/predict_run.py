"""What `launch.predict` does once all that it is asked fits: it opens the run, and has it made."""

from jax_pix2pix.workdir import load_run
from launch import (
    predict_ct,
    predict_images,
    predict_pictures,
    predict_samples,
    predict_synthesis,
    predict_volumes,
)
from launch.predict_checks import CT, MASKS, PICTURES, SAMPLES, SYNTHESIS, Sampling
from launch.predict_masks import mask_model

OF_MASKS = {MASKS["uint8"]: predict_images.predict, MASKS["int16"]: predict_volumes.predict}


def predict(kind, workdir, called, checkpoint, asked):
    """Makes the results.

    Args:
        kind: what predict_checks.check says of `asked`.
        called: what scores name as their workdir.

    Raises:
        WorkdirError: there is no such checkpoint.
        ConfigError: a flag does not fit the run's networks.
        DataError: the input cannot be read.
    """
    config, system, generator, step = load_run(workdir, checkpoint)
    run, files = (config, system, generator), (asked.source, asked.output)
    if kind == SAMPLES:
        sampling = Sampling(**asked.sampling)
        predict_samples.predict(*run, asked.output, asked.source, sampling)
    elif kind == PICTURES:
        predict_pictures.predict(*run, *files)
    elif kind == SYNTHESIS:
        header = {"workdir": called, "checkpoint": checkpoint, "step": step}
        predict_synthesis.predict(*run, header, *files, asked.mask, asked.reference, workdir)
    elif kind == CT:
        predict_ct.predict(*run, *files)
    else:
        OF_MASKS[kind](config.data, mask_model(*run, *asked.options), *files)
