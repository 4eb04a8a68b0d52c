"""Compares the golden losses with this machine's, or renews them: see the package."""

import jax
import numpy as np
from absl import app, flags

from tests import golden

_WRITE = flags.DEFINE_bool("write", False, "renew the files")


def main(argv):
    del argv
    jax.config.update("jax_enable_x64", True)
    for name, case in golden.CASES.items():
        values = golden.losses(case)
        if _WRITE.value:
            golden.write(name, values)
            print(golden.path_of(name))
            continue
        expected = golden.read(name)
        apart = max(
            np.max(np.abs(np.divide(values[metric], expected[metric]) - 1)) for metric in expected
        )
        print(f"{name}: {apart:.1e} relative")


if __name__ == "__main__":
    app.run(main)
