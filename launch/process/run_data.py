"""The prepared data of a trained run, whose config may come from anywhere.

What that config says of stores and samples starts nothing: only --data names a store to read.
"""

from absl import flags

from jax_pix2pix.runs import workdir_files


def define_flag():
    flags.DEFINE_string(
        "data",
        None,
        "folder of prepared data sets, or its url in a store, in place of config.data.data_dir, "
        "which is read only if it is on this machine",
    )


def of_run(config, workdir, given):
    """The Dataset of a run.

    Args:
        config: of the run.
        workdir: where its config.json is.
        given: the value of --data, or None.

    Raises:
        DataError: it is not prepared, or not on this machine.
        WorkdirError: the config lacks fields.
    """
    from input_pipeline import prepared  # imports TensorFlow: seconds
    from input_pipeline.dataset import Dataset

    with workdir_files.named_if_incomplete(workdir):
        data = config.data.copy_and_resolve_references()
        if given:
            data.data_dir = given
            prepared.fetch(data)
        dataset = Dataset(data)
        dataset.directory  # noqa: B018  refuses now
    return dataset
