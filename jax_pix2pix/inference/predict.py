"""What `launch.predict` does once all that it is asked fits: it opens the run, and has it made."""

from jax_pix2pix.runs.workdir import load_run
from jax_pix2pix.inference import ct_slices, xrays, mr_pictures, samples, synthetic_ct, ct_volumes
from jax_pix2pix.inference.checks import CT, MASKS, PICTURES, SAMPLES, SYNTHESIS, Sampling
from jax_pix2pix.inference.mask_model import mask_model

OF_MASKS = {MASKS["uint8"]: xrays.predict, MASKS["int16"]: ct_volumes.predict}


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
        samples.predict(*run, asked.output, asked.source, sampling)
    elif kind == PICTURES:
        mr_pictures.predict(*run, *files)
    elif kind == SYNTHESIS:
        header = {"workdir": called, "checkpoint": checkpoint, "step": step}
        synthetic_ct.predict(*run, header, *files, asked.mask, asked.reference, workdir)
    elif kind == CT:
        ct_slices.predict(*run, *files)
    else:
        OF_MASKS[kind](config.data, mask_model(*run, *asked.options), *files)
