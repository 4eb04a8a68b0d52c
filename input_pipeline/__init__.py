"""Files to batches: TensorFlow, TFDS and NumPy, never JAX."""

import importlib


def __getattr__(name):
    if name == "Dataset":  # lazily: it imports TensorFlow, which the file readers do without
        return importlib.import_module("input_pipeline.dataset").Dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
