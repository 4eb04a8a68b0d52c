"""Compares the golden losses with this machine's, or rewrites them: see the package."""

import jax
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
        print(f"{name}: {golden.distance(values, golden.read(name)):.1e} relative")


if __name__ == "__main__":
    app.run(main)
