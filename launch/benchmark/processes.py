"""Benchmarks measure in processes of their own, which answer lines of JSON with lines of JSON.

Each framework and batch size has a process, with its own peak memory, so that two can take turns.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from jax_pix2pix.errors import BenchmarkError, ConfigError, DataError
from launch.process import gc_tuning


class Worker:
    """A started ``python -m module arguments...``; a context manager that ends it.

    ask(name, **arguments) -> what its handler of that name returns.

    Raises:
        BenchmarkError: the process refused, with its reason, or ended.
    """

    def __init__(self, module, *arguments, **environment):
        self._module = module
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )

    def ask(self, name, **arguments):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError(self._last_words(name))
        answer = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(answer["error"])
        return answer["result"]

    def _last_words(self, name):
        code = self.process.wait()
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr if line.strip()]
        what = lines[-1] if lines else "no message"
        if code < 0:
            what = f"signal {-code}; out of memory? Use smaller --batch_sizes"
        return f"{self._module} ended while asked for {name} ({what})"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._stderr.close()


def serve(handlers):
    """Answers requests on standard input until it ends. handlers: {name: function(**arguments)}."""
    gc_tuning.leave_imports_alone()  # as in commands, so that the same is measured
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # text that libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": handlers[request["name"]](**request["arguments"])}
        except (BenchmarkError, ConfigError, DataError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
    answers.flush()
    os._exit(0)  # threads of TensorFlow would delay the end


def timed(call, count, steps=1):
    """Times `count` steps, `steps` per call. -> {"seconds": of each step, "cpu_seconds_a_step"}."""
    seconds, cpu = [], time.process_time()
    for _ in range(max(1, round(count / steps))):
        start = time.perf_counter()
        call()
        seconds.append((time.perf_counter() - start) / steps)
    cpu_seconds = (time.process_time() - cpu) / (len(seconds) * steps)
    return {"seconds": seconds, "cpu_seconds_a_step": cpu_seconds}


def peak_resident_bytes():
    """The largest resident set of this process so far, libraries and compiler included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
