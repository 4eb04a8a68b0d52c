"""Flags that benchmarks share, checked before minutes of measuring."""

import json
import os

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.safety import named_files, safe_files


def batch_sizes(texts):
    """["8", "64"] -> [8, 64]. Raises ConfigError."""
    if not texts or not all(text.isdecimal() and int(text) for text in texts):
        raise ConfigError(f"--batch_sizes={','.join(texts)}: use e.g. 8,16")
    return [int(text) for text in texts]


def save(output, record):
    """Writes the figures as JSON."""
    safe_files.write(output, json.dumps(record, indent=1) + "\n")


def claim(output):
    """Makes the folder of the file for the figures; an OSError comes before measuring."""
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    named_files.check_output(output)
