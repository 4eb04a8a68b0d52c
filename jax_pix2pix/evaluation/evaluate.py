"""What `launch.evaluate` does with a run that is no pyramid."""

import os

from jax_pix2pix.runs.workdir import load_run
from jax_pix2pix.runs.workdir_files import makes_masks
from jax_pix2pix.evaluation import ct_slices, segmentation, synthesis, json_results
from launch.process.remote_workdir import as_given


def evaluate(workdir, split, checkpoint, mc_dropout, components):
    """Prints the scores and writes workdir/evaluation/<split>.json and <split>.png.

    Of a system that makes CT of MR a table <split>.csv and a report <split>.html too.

    Args:
        mc_dropout, components: of a system that makes masks.
    """
    config, system, generator, step = load_run(workdir, checkpoint)
    header = {"split": split, "checkpoint": checkpoint, "step": step}
    if makes_masks(config):
        results, pictures = segmentation.evaluate(
            config, system, generator, split, mc_dropout, components
        )
    else:
        kind = evaluate_synthesis if config.data.target == "ct" else evaluate_ct
        results, pictures = kind.evaluate(config, system, generator, split)

    results = header | results
    folder = os.path.join(workdir, "evaluation")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, split)
    if config.data.target == "ct":
        synthesis.write(path, config, results, pictures)
        return
    json_results.write(f"{path}.json", results)
    pictures.save(f"{path}.png")
    print(f"best, median and worst: {as_given(path)}.png")
