"""launch.submit: refusals, names of accelerators, and a run on this machine."""

import re
import signal

import numpy as np
import pytest

from jax_pix2pix.errors import EXIT_RESTART, ConfigError
from launch.cluster.accelerators import Cpus, Gpus, accelerator, of_four
from tests import commands
from tests.commands import submit
from tests.faults import runs

CONFIG = "--config=configs/lidc_mask2ct.py"


@pytest.mark.parametrize(
    ("name", "topology", "hosts", "chips_per_host", "accelerator_type"),
    [
        ("v5e-1", "1x1", 1, 1, "v5litepod-1"),
        ("v5e-4", "2x2", 1, 4, "v5litepod-4"),
        ("v5e-8", "2x4", 1, 8, "v5litepod-8"),
        ("v6e-8", "2x4", 1, 8, "v6e-8"),
        ("v4-16", "2x2x2", 2, 4, "v4-16"),
        ("v5e-256", "16x16", 64, 4, "v5litepod-256"),
        ("v6e-64", "8x8", 16, 4, "v6e-64"),
        ("v4-8", "2x2x1", 1, 4, "v4-8"),
        ("v5p-32", "2x2x4", 4, 4, "v5p-32"),
        ("v5p-512", "4x8x8", 64, 4, "v5p-512"),
        ("v4-1024", "8x8x8", 128, 4, "v4-1024"),
    ],
)
def test_tpu_slices(name, topology, hosts, chips_per_host, accelerator_type):
    found = accelerator(name)
    assert (found.topology, found.hosts, found.chips_per_host, found.accelerator_type) == (
        topology, hosts, chips_per_host, accelerator_type,
    )  # fmt: skip


def test_slices_on_hosts_of_four_chips():
    for name, hosts, per_host in (("v5e-8", 2, 4), ("v5e-4", 1, 4), ("v5e-1", 1, 1)):
        found = of_four(accelerator(name))
        assert (found.hosts, found.chips_per_host) == (hosts, per_host)


def test_gpus_and_cpus():
    assert accelerator("h100:8") == Gpus("h100", 8, "nvidia-h100-80gb")
    assert accelerator("gpu:4") == Gpus("gpu", 4, None)
    assert accelerator("cpu:2") == Cpus(2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-3", "no slice of that size; v5e-N counts chips"),
        ("v5p-7", "no slice of that size; v5p-N counts cores, two a chip"),
        ("v5e-512", "no slice of that size"),
        ("v9-8", "is unknown: use e.g. v5e-256"),
        ("h100", "is unknown"),
        ("h100:0", "is unknown"),
        ("tpu:8", "is unknown"),
    ],
)
def test_accelerators_that_there_are_not(name, message):
    with pytest.raises(ConfigError, match=message):
        accelerator(name)


GKE = ("gke", "--accelerator=v5e-16", "--image=i")
GPU = ("slurm", "--accelerator=gpu:1")
REFUSED = {
    ("slrm", "--workdir=a"): "name one platform, local, slurm",
    ("--workdir=a",): "name one platform",
    ("local", "slurm", "--workdir=a"): "name one platform",
    ("local",): "--workdir is missing",
    ("slurm", "--workdir=a"): "--accelerator is missing, which slurm needs",
    ("local", "--workdir=a", "--num_processes=2"): "--num_processes: local has no such flag",
    (
        "local",
        "--workdir=a",
        "--config=configs/none.py",
        "--config.seed=1",
    ): "--config=configs/none.py: there is no such file",
    (
        "local",
        "--workdir=a",
        "--config=configs/none.py",
    ): "--config=configs/none.py: there is no such file",
    ("local", "--workdir=a", "--time=10"): "--time: local has no such flag",
    ("local", "--workdir=a", "--accelerator=h100:8"): "local is not for such",
    ("local", "--workdir=a", "--nodes=3"): "batch_size=64 does not divide over 3 devices",
    ("local", "--workdir=a", "--config.dtype=float16"): "config.dtype='float16'",
    (
        "local",
        "--workdir=a",
        "--accelerator=cpu:4",
        "--config.fsdp=3",
    ): "config.fsdp=3 does not divide over 4 devices",
    (
        "local",
        "--workdir=a",
    ): "data/lidc_masks/128_nearest_0-1-2_a16dad85_0.1/2.0.0 does not exist: run",
    (
        "slurm",
        "--workdir=a",
        "--accelerator=v100:2",
        f"{CONFIG}:quickstart",
    ): "sbatch is not installed here",
    (*GKE, "--workdir=gs://b/a"): "--config.data.data_dir=data: a pod or rented machine has no",
    (*GKE, "--workdir=/r/a", "--config.data.data_dir=gs://b/d"): "--workdir=/r/a: a pod or rented",
    (*GKE, "--workdir=gs:///a"): "--workdir=gs:///a: use gs://BUCKET/",
    (*GKE, "--workdir=ftp://b/a"): "--workdir=ftp://b/a: use gs://BUCKET/",
    (*GPU, "--workdir=a", "--profile_steps=9:5"): "--profile_steps=9:5: use two steps from 1 on",
    (*GPU, "--workdir=a\ntouch b"): r"--workdir=a\ntouch b: no flag takes control characters",
    (*GPU, "--workdir=a", "--name=\x1b[2J"): r"--name=\x1b[2J: no flag takes control",
    (*GPU, "--workdir=a", "--config.data.data_dir=d\rd"): r"--config.data.data_dir=d\rd: no flag",
    (*GPU, "--workdir=a", "b\x7f"): r'"b\x7f": no flag takes control characters',
    (*GPU, "--workdir=/a\udcff"): r"--workdir=/a\xff: no flag takes control characters",
    (*GPU, "--workdir=a", "--partition=-p"): "--partition=-p is not of the form that it needs: gpu",
    (*GPU, "--workdir=a", "--mem=4 G"): "--mem=4 G is not of the form that it needs: 400G",
    (*GPU, "--workdir=a", "--time=1-0 #"): "--time=1-0 # is not of the form that it needs: 1-00",
    (*GPU, "--workdir=/a\\b"): "Slurm writes no log into a folder with a back",
    (*GPU, "--workdir=a", "--container=apptainer"): "--container=apptainer runs --image",
    (*GPU, "--workdir=/a,b", "--image=a.sif"): 'a,b: a container mounts no folder with ","',
    (*GPU, "--workdir=/a:b", "--image=a.sif"): 'a:b: a container mounts no folder with ","',
}
RUN = [CONFIG, "--workdir=/runs/My run", "--dry_run"]
SLURM = [
    "slurm", "--nodes=2", "--accelerator=h100:4", "--cpus_per_task=12", "--mem=400G",
    "--time=1-00:00:00",
    "--partition=gpu", "--account=lungs", "--restarts=7", "--config.seed=20",
    "--allow_config_change=data.cache,log_every_steps", "--wandb=it's lungs",
]  # fmt: skip
CONTAINER = [
    "slurm", "--accelerator=gpu:8", "--image=LICENSE", "--config.data.data_dir=/runs/My run/data"
]  # fmt: skip
ELSEWHERE = [
    "slurm", "--accelerator=gpu:8", "--process_per=node", "--image=r/a", "--config.data.data_dir=/d"
]  # fmt: skip


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """The result of each call above: {arguments: (exit code, stdout, stderr)}."""
    calls = [(CONFIG, *arguments) for arguments in REFUSED]
    calls += [(*RUN, *SLURM)]
    calls += [(*RUN, *CONTAINER, f"--container={name}") for name in ("pyxis", "apptainer")]
    elsewhere = tmp_path_factory.mktemp("configs") / "own.py"
    elsewhere.write_bytes((commands.ROOT / "configs/lidc_mask2ct.py").read_bytes())
    calls += [(f"--config={elsewhere}", *RUN[1:], *ELSEWHERE)]
    called = dict(zip(calls, submit(calls, {"PATH": ""}), strict=True))
    return called | {"elsewhere": (elsewhere.parent, called[calls[-1]])}


@pytest.mark.parametrize("arguments", REFUSED)
def test_refusals(called, arguments):
    code, _, err = called[CONFIG, *arguments]
    assert code == 1
    assert REFUSED[arguments] in commands.error_line(err)


def _printed(called, *arguments):
    code, out, err = called[(*RUN, *arguments)]
    assert (code, err) == (0, "")
    return out


def test_a_file_for_slurm(called):
    text = _printed(called, *SLURM)
    head = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --job-name=my-run" in head
    for line in (
        "--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=h100:4", "--cpus-per-task=12",
        "--mem=400G", "--time=1-00:00:00", "--partition=gpu", "--account=lungs", "--requeue",
        "--signal=B:USR1@120", "--open-mode=append", "--output='/runs/My run/slurm-%j.log'",
    ):  # fmt: skip
        assert f"#SBATCH {line}" in head
    assert (
        f"{CONFIG} --config.seed=20 '--workdir=/runs/My run' "
        "--allow_config_change=data.cache,log_every_steps '--wandb=it'\"'\"'s lungs'" in text
    )
    assert "${SLURM_RESTART_COUNT:-0} >= 7" in text
    assert len(set(re.findall(r"--submission=\w{8}\b", text))) == 1  # the same at each start
    assert re.findall(r"JAX_\w+=\w*", text) == ["JAX_PLATFORMS=cuda"]


@pytest.mark.parametrize(
    ("container", "command"),
    [
        ("pyxis", f"srun --kill-on-bad-exit=0 --container-image={commands.ROOT}/LICENSE --"),
        ("apptainer", "apptainer exec --nv --pwd"),
    ],
)
def test_a_container_under_slurm_sees_what_the_run_does(called, container, command):
    text = _printed(called, *CONTAINER, f"--container={container}")
    assert "--gpus-per-node=8" in text
    call = text[text.index(command) :]
    call = call[: call.index("launch.train")]
    for folder in (str(commands.ROOT), "/runs/My run"):
        assert folder in call
    assert "/runs/My run/data" not in call  # lies in the other
    assert f"{commands.ROOT}/LICENSE" in call
    assert "python -m launch.train" in text


def test_a_container_sees_data_and_config_that_lie_elsewhere(called):
    folder, (code, text, _) = called["elsewhere"]
    assert code == 0
    mounts = text[text.index("--container-mounts=") : text.index("launch.train")]
    for mounted in ("/d", commands.ROOT, "/runs/My run", folder):
        assert f"{mounted}:{mounted}" in mounts
    assert "--container-image=r/a " in text  # in a registry
    made = [line for line in text.splitlines() if line.startswith("mkdir")]
    assert made == ["mkdir -p '/runs/My run'"]


def _arguments(workdir, data_dir):
    return commands.tiny_training(
        workdir,
        data_dir,
        **{"dtype": "float64", "data.image_size": 32, "generator.depth": 3},
    )


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_of_local_train_what_one_with_two_devices_does(sample_data_dir, tmp_path):
    for name, count in (("one", ["--accelerator=cpu:2"]), ("two", ["--nodes=2"])):
        commands.run(
            "launch.submit", "local", *count, *_arguments(tmp_path / name, sample_data_dir),
            variables=commands.SUBMITTED,
        )  # fmt: skip
    one, two = (commands.metrics(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 20
    for line, other in zip(one, two, strict=True):
        for name in set(line) - {"split"}:
            np.testing.assert_allclose(line[name], other[name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_local_passes_a_signal_on_and_ends_as_its_processes_do(sample_data_dir, tmp_path):
    arguments = ["local", "--nodes=2", *_arguments(tmp_path, sample_data_dir)]
    options = {"module": "launch.submit", "variables": commands.SUBMITTED}
    with runs.started(arguments, **options) as (process,):
        runs.wait_for(lambda: runs.logged_step(tmp_path) >= 3, [process])
        process.send_signal(signal.SIGTERM)
        commands.finish(process, EXIT_RESTART)
    assert runs.steps(tmp_path)[-1] < 20
