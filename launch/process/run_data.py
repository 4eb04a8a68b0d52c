"""The prepared data of a trained run, whose config may come from anywhere.

What that config says of stores and samples starts nothing: only --data names a store to read. And
only in a workdir of the user's own does its config name data: another's would have scores and names
of the user's patients written wherever it lies.
"""

import os

from absl import flags

from jax_pix2pix.errors import DataError
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.stores import remote_workdir


def define_flag():
    flags.DEFINE_string(
        "data",
        None,
        "folder of prepared data sets, or its url in a store, in place of config.data.data_dir, "
        "which is read only if it is on this machine and the workdir is your own",
    )


def of_run(config, workdir, given):
    """The Dataset of a run.

    Args:
        config: of the run.
        workdir: where its config.json is.
        given: the value of --data, or None.

    Raises:
        DataError: it is not prepared, or not on this machine; or no --data is given and the
            workdir is in a store or belongs to another user.
        WorkdirError: the config lacks fields.
    """
    from input_pipeline import prepared  # imports TensorFlow: seconds
    from input_pipeline.dataset import Dataset

    with workdir_files.named_if_incomplete(workdir):
        if not given:
            _check_own(workdir, config.data.data_dir)
        data = config.data.copy_and_resolve_references()
        if given:
            data.data_dir = given
            prepared.fetch(data)
        dataset = Dataset(data)
        dataset.directory  # noqa: B018  refuses now
    return dataset


def _check_own(workdir, data_dir):
    path = workdir_files.config_path(workdir)
    called = remote_workdir.as_given(path)
    if called != path:
        whose = "is in a store"
    elif os.stat(path).st_uid != os.geteuid():
        whose = "belongs to another user"
    else:
        return
    raise DataError(
        f"{called} {whose}, so the data that it names, {data_dir}, are not taken for yours: name "
        "them with --data if they are, or name others"
    )
