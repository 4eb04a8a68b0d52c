"""TensorFlow for tf.data only: import `tf` from here, so that it never takes a GPU from JAX."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it rounds differently on some CPUs and logs
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # so that no Keras is loaded, which takes seconds

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
