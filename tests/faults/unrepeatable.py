"""launch.verify_resume with a fault: python -m tests.faults.unrepeatable FAULT FLAGS...

With a fault, the random part depends on when the run was started, as if a restart began an iterator
or seeded a generator of random numbers anew.
"""

import sys

import jax

from input_pipeline import pipeline
from jax_pix2pix import fit
from launch import verify_resume
from launch.process import command


def order():
    """The order of the examples begins anew at each start."""
    train_batches = pipeline.train_batches

    def anew(data, start, stop, host, hosts):
        return train_batches(data, 0, stop - start, host, hosts)

    pipeline.train_batches = anew


def dropout():
    """Dropout's key changes after a restart; a step is lowered once per start."""
    train_step, restarts = fit.train_step, iter([0, 0, 1])
    fit.train_step = lambda system, state, batch, key: train_step(
        system, state, batch, jax.random.fold_in(key, next(restarts))
    )


if __name__ == "__main__":
    {"order": order, "dropout": dropout}[sys.argv.pop(1)]()
    command.run(verify_resume.main)
