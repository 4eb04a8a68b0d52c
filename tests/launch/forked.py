"""Many calls of launch.submit for one start of Python: a process imports JAX, then forks for each.

What a call does after those imports is what `python -m` does: its flags, its output, its code.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile

from tests.commands import ROOT


def submit(calls, variables=None, folder=ROOT):
    """-> [(exit code, stdout, stderr)] of the calls in a folder, each a list of arguments."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.launch.forked"],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | (variables or {}),
        input=json.dumps(calls),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return [tuple(result) for result in json.loads(done.stdout)]


def _call(arguments):
    text = {"mode": "w+", "encoding": "utf-8"}
    with tempfile.TemporaryFile(**text) as out, tempfile.TemporaryFile(**text) as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["launch.submit", *arguments]
            runpy.run_module("launch.submit", run_name="__main__", alter_sys=True)
            sys.exit()
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return os.waitstatus_to_exitcode(status), out.read(), err.read()


if __name__ == "__main__":
    import input_pipeline.prepared  # noqa: F401, what takes long
    import jax_pix2pix.workdir  # noqa: F401

    print(json.dumps([_call(arguments) for arguments in json.load(sys.stdin)]))
