"""launch.verify_resume with a fault: python -m tests.faults.unrepeatable FAULT FLAGS...

What is random then depends on when the run was started, as it would with an iterator that a restart
begins anew, or with a generator of random numbers that it seeds anew.
"""

import sys

import jax

from input_pipeline import pipeline
from jax_pix2pix import fit
from launch.process import command
from launch import verify_resume


def order():
    """The order of the examples begins at each start."""
    train_batches = pipeline.train_batches

    def anew(data, start, stop, host, hosts):
        return train_batches(data, 0, stop - start, host, hosts)

    pipeline.train_batches = anew


def dropout():
    """Dropout's key is another one after a restart; a step is lowered once a start."""
    train_step, restarts = fit.train_step, iter([0, 0, 1])
    fit.train_step = lambda system, state, batch, key: train_step(
        system, state, batch, jax.random.fold_in(key, next(restarts))
    )


if __name__ == "__main__":
    {"order": order, "dropout": dropout}[sys.argv.pop(1)]()
    command.run(verify_resume.main)
