"""Starts commands without repeating their imports: one process imports, then forks for each.

A fork is a process like any other, with its own PID, pipes and environment. It parses its flags,
makes its threads, devices and files, takes signals and ends by itself. Only the import of JAX and
TensorFlow, which takes seconds, is shared. Linux alone can make a fork the child of the process
that asked for it, which then waits for it as for any child. Elsewhere commands start as users' do.
"""

import ctypes
import importlib
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import warnings

PR_SET_CHILD_SUBREAPER = 36  # of <linux/prctl.h>
# Variables that Python, glibc, JAX and TensorFlow read while they start, too early for a fork.
AT_START = ("PYTHON", "LC_", "LANG", "TZ", "GLIBC", "LD_", "JAX_", "TF_", "OMP_", "OPENBLAS")
# These are read later, or set by `_become`.
LATER = {"JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_ENABLE_X64"}
QUIET = "ignore::UserWarning"  # the one value of PYTHONWARNINGS that `_become` handles
USED_LATER = (
    "SimpleITK", "dm_pix", "fsspec", "jinja2", "matplotlib.backends.backend_agg",
    "matplotlib.figure", "pymedphys", "scipy.ndimage", "scipy.stats", "tensorboardX",
)  # fmt: skip


class Server:
    """One process that has imported the modules of commands, and forks on request."""

    def __init__(self, folder, environment):
        self.environment = environment
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # From here on, a descendant whose parent ends becomes this process's child.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
                cwd=folder,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def serves(self, environment):
        """Whether a process with this environment may be forked; otherwise it must be started."""
        names = self.environment.keys() | environment.keys()
        differing = {name for name in names if self.environment.get(name) != environment.get(name)}
        if environment.get("PYTHONWARNINGS") == QUIET:
            differing -= {"PYTHONWARNINGS"}
        return not any(name.startswith(AT_START) for name in differing - LATER)


class Forked(subprocess.Popen):
    """A Popen whose process a server forks: Forked(server, words, **options).

    words: what follows python: -m and a module or -c and a program, then arguments.
    options: cwd, env, umask, stdout, stderr and text, of Popen.
    """

    def __init__(self, server, words, **options):
        self._server = server
        super().__init__(words, **options)

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
        restore_signals, gid, gids, uid, umask, *_,
    ):  # fmt: skip
        request = {"words": args, "folder": str(cwd), "environment": env, "umask": umask}
        try:
            socket.send_fds(
                self._server.connection, [json.dumps(request).encode()], [c2pwrite, errwrite]
            )
            self.pid = int(self._server.connection.recv(100))
        finally:
            for pipe in {c2pwrite, errwrite}:
                os.close(pipe)
        self._child_created = True


def _import_all():
    """Imports the library and the pipeline, and the modules that commands import on first use.

    It leaves out modules that define flags: two commands may have a flag of one name.
    """
    import input_pipeline
    import jax_pix2pix
    import launch  # noqa: F401, which in a command would restart Python for large pages

    for package in (input_pipeline, jax_pix2pix):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in USED_LATER:
        importlib.import_module(name)


def _serve(connection):
    """Forks for each request. Returns it, in the child only; ends with the connection."""
    while True:
        request, pipes, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not request:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if not between:
            # When this parent ends, the child passes to the process that asked.
            if child := os.fork():
                os.write(write, b"%d" % child)
                os._exit(0)
            connection.close()
            os.close(read)
            os.close(write)
            return json.loads(request), pipes
        os.waitpid(between, 0)
        connection.send(os.read(read, 100))
        for pipe in (*pipes, read, write):
            os.close(pipe)


def _become(request, pipes):
    """Turns a fork into what `python -m` would start, up to the command's first line."""
    for number, pipe in enumerate(pipes, start=1):
        os.dup2(pipe, number)
        os.close(pipe)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["umask"] >= 0:
        os.umask(request["umask"])
    import jax  # already imported

    jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64") in ("1", "true"))
    if os.environ.get("PYTHONWARNINGS") == QUIET:
        warnings.simplefilter("ignore", UserWarning)
    option, program, *arguments = request["words"]
    sys.argv = [option, *arguments]
    return option, program


if __name__ == "__main__":
    own = socket.socket(fileno=int(sys.argv[1]))
    _import_all()
    option, program = _become(*_serve(own))
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(program, {"__name__": "__main__"})
