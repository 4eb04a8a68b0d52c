"""A prepared data set as one object, for training and evaluation.

data = input_pipeline.Dataset(config.data, prepare=True)
for batch in data.train_batches(0, 100): ...
"""

import functools

from input_pipeline import order, pipeline, prepared


class Dataset:
    """The prepared data set that config.data describes.

    Args:
        data: config.data.
        prepare: whether the first access copies the data from a store, if config.data.data_dir is
            there, and prepares the embedded sample config.data.sample, if it is not prepared yet.
            Where hosts share a disk, one prepares it and the others wait. By default only what is
            on this machine is opened: the config of a workdir from elsewhere may name any store.

    Raises:
        DataError: any method raises it if the data is not prepared, with the command to run, or is
            damaged.
    """

    def __init__(self, data, prepare=False):
        self.data, self._prepare = data, prepare

    @functools.cached_property
    def directory(self):
        """Folder of the prepared data set, or of its local copy if it is in a store."""
        open_directory = prepared.ensure_prepared if self._prepare else prepared.find
        return open_directory(self.data)

    def _here(self):
        """config.data, once the data are on this machine."""
        self.directory  # noqa: B018
        return self.data

    def examples(self, split):
        """A list of prepared_files.Example: entry i describes the slice with index i."""
        return prepared.examples(self._here(), split)

    def patients(self, split):
        """A list of patients: entry i is the patient of the slice with index i."""
        return [example.patient for example in self.examples(split)]

    def spacing_mm(self, examples=None):
        """Median spacing between slices, rows and columns at config.data.image_size, in mm.

        The median is over `examples`, by default the training split. It is 0 where unknown.
        """
        return prepared.spacing_mm(
            self.data, self.examples("train") if examples is None else examples
        )

    def fingerprint(self):
        """What tells this data from other data, wherever it lies: see `prepared.fingerprint`."""
        return prepared.fingerprint(self.data)

    def check_training(self):
        """Raises DataError, before training begins, if training could not read its data."""
        pipeline.check_training(self._here())

    @property
    def num_training_examples(self):
        """Number of examples in an epoch: slices, or runs of config.data.depth slices."""
        return pipeline.num_training_examples(self._here())

    @property
    def steps_per_epoch(self):
        """Steps of one pass over the training examples."""
        return order.steps_per_epoch(self.num_training_examples, self.data.batch_size)

    def num_evaluation_examples(self, split):
        """Number of examples that `eval_batches` gives."""
        return pipeline.num_evaluation_examples(self._here(), split)

    def train_batches(self, start_step, stop_step, host=0, hosts=1):
        """Batches of steps [start_step, stop_step): see `pipeline.train_batches`."""
        return pipeline.train_batches(self._here(), start_step, stop_step, host, hosts)

    def eval_batches(self, split, host=0, hosts=1, indices=None):
        """Each slice of a split once, in order: see `pipeline.eval_batches`."""
        return pipeline.eval_batches(self._here(), split, host, hosts, indices)

    def train_set(self):
        """All training slices, for a cache: see `pipeline.train_set`."""
        return pipeline.train_set(self._here())

    def with_target(self, target, target_type):
        """A Dataset of the same records with another stored image, such as "mask", as target."""
        data = self.data.copy_and_resolve_references()
        data.target, data.target_type = target, target_type
        return Dataset(data, self._prepare)
