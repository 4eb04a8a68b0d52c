"""The container images: their files, what the files install, and one image built for real."""

import io
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from dockerfile_parse import DockerfileParser

from tests.commands import ROOT, tiny_training

FOLDER = ROOT / "launch/cluster/docker"
EXTRAS = {"cpu": None, "gpu": "cuda", "tpu": "tpu"}


def _parsed(kind):
    text = (FOLDER / f"Dockerfile.{kind}").read_bytes()
    return DockerfileParser(fileobj=io.BytesIO(text))


def _commands(kind):
    """The commands of all RUN lines, in order."""
    lines = _parsed(kind).structure
    runs = [line["value"] for line in lines if line["instruction"] == "RUN"]
    return [command.strip() for run in runs for command in run.split("&&")]


def test_dockerfiles_are_sound():
    files = sorted(FOLDER.glob("Dockerfile.*"))
    assert [path.suffix[1:] for path in files] == sorted(EXTRAS)
    result = subprocess.run(["hadolint", *files], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_dockerfiles_differ_in_the_extra_alone():
    """They also differ in where the GPU image looks for the driver."""

    def plain(kind):
        text = (FOLDER / f"Dockerfile.{kind}").read_text(encoding="utf-8")
        instructions = "".join(line for line in text.splitlines(True) if line[0] != "#")
        extra = f" *extras['{EXTRAS[kind]}'],"
        assert instructions.count(extra) == (kind != "cpu")
        driver = re.findall("^ENV .*/usr/local/nvidia/lib64.*\n", instructions, re.MULTILINE)
        assert len(driver) == (kind == "gpu")
        return instructions.replace(extra, "").replace("".join(driver), "")

    assert plain("cpu") == plain("gpu") == plain("tpu")


@pytest.mark.parametrize("kind", EXTRAS)
def test_images_have_what_runs_with_workdirs_in_buckets_and_trackers_need(tmp_path, kind):
    """The RUN line installs every package of each extra with pip."""
    (tmp_path / "project").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "project")
    write = next(command for command in _commands(kind) if "requirements.txt" in command)
    _run([write], tmp_path)
    asked = (tmp_path / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ["storage", "wandb", "mlflow", *filter(None, [EXTRAS[kind]])]
    wanted = [package for extra in extras for package in project["optional-dependencies"][extra]]
    assert sorted(asked) == sorted(project["dependencies"] + wanted)


def test_every_launched_environment_can_read_buckets(rendered):
    """A run's workdir and data are in buckets. The environments have W&B and MLflow too."""
    lines = {
        (path.name, line.strip())
        for path in rendered.iterdir()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r" -e '\.\[", line)
    }
    assert {name.split("-")[0] for name, _ in lines} == {"sky", "tpu_vm"}
    for name, line in lines:
        (extras,) = re.findall(r"-e '\.\[([\w,]+)\]'", line)
        device = "cuda" if "Gpus" in name else "tpu"
        assert set(extras.split(",")) == {device, "storage", "wandb", "mlflow"}, name


def _context(folder):
    """Copies the files that .dockerignore lets through, as the images get them."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    folder.mkdir()
    for name in [line[1:] for line in lines if line.startswith("!")]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)


def _run(commands, folder):
    """Runs commands of RUN lines in folder/project; folder stands for /opt and /tmp."""
    path = [folder / "venv/bin", os.path.dirname(sys.executable), os.environ["PATH"]]
    # Compiling the installed packages would take as long as installing them.
    variables = os.environ | {"PATH": os.pathsep.join(map(str, path)), "PIP_NO_COMPILE": "1"}
    variables.pop("PYTHONPATH", None)
    for command in commands:
        here = re.sub("/(opt|tmp)/", f"{folder}/", command)
        subprocess.run(["bash", "-c", here], cwd=folder / "project", env=variables, check=True)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("kind", "device"), [("gpu", "jax-cuda12-plugin"), ("tpu", "libtpu")])
def test_versions_go_together(tmp_path, kind, device):
    """Checked by what pip would install, without a second download for a test."""
    _context(tmp_path / "project")
    create, write, tools, install, *_ = _commands(kind)
    assert "uv pip install" in install
    _run([create, write, tools, f"{install} --dry-run 2>../report"], tmp_path)
    report = (tmp_path / "report").read_text()
    installed = set(re.findall(r"^ \+ ([\w.-]+)==", report, re.MULTILINE))
    assert device in installed and {"gcsfs", "s3fs", "wandb", "mlflow-skinny"} <= installed
    assert "torch" not in installed


def _check(run_python):
    """Checks that an image's Python trains and has no PyTorch."""
    assert "--workdir" in run_python("-m", "launch.train", "--help").stdout
    assert "No module named 'torch'" in run_python("-c", "import torch").stderr


@pytest.mark.slow
@pytest.mark.long
def test_the_cpu_image_installs_what_training_needs(tmp_path):
    """Runs all RUN lines except the one that adds a user, without a container."""
    _context(tmp_path / "project")
    commands = [command for command in _commands("cpu") if not command.startswith("useradd")]
    assert len(commands) == len(_commands("cpu")) - 1
    _run(commands, tmp_path)

    def run_python(*arguments):
        command = [tmp_path / "venv/bin/python", *arguments]
        variables = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
        return subprocess.run(
            command, cwd=tmp_path / "project", env=variables, capture_output=True, text=True
        )

    _check(run_python)
    run_python("-c", "import gcsfs, s3fs, wandb, mlflow").check_returncode()
    assert (tmp_path / "project/data").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("buildah") or not shutil.which("mmdebstrap"),
    reason="needs root, buildah and mmdebstrap",
)
def test_the_cpu_image_trains(tmp_path):
    """buildah builds it on Debian's own Python 3.11 instead of the official image's."""
    store = ["--root", tmp_path / "store", "--runroot", tmp_path / "run"]

    def buildah(*arguments, check=True):
        command = ["buildah", *store, *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0 or not check, result.stdout + result.stderr
        return result

    packages = "python3,python3-venv,python3-pip,ca-certificates"
    base = tmp_path / "base.tar"
    debian = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={packages}",
        "bookworm",
        base,
    ]
    subprocess.run(debian, check=True)
    dockerfile, name = FOLDER / "Dockerfile.cpu", _parsed("cpu").baseimage
    try:
        scratch = buildah("from", "scratch").stdout.strip()
        buildah("add", scratch, base, "/")
        buildah("commit", scratch, name)
        certificates = "/etc/ssl/certs:/etc/ssl/certs:ro"  # those that this machine trusts
        build = ["build", "--isolation=chroot", "--pull-never", f"--volume={certificates}"]
        buildah(*build, "--tag=cpu", f"--file={dockerfile}", ROOT)
        image = buildah("from", "--pull-never", "cpu").stdout.strip()
        # JAX looks up its machine's name, which is not in /etc/hosts here.
        isolated = ["run", "--isolation=chroot", "--hostname=localhost", image, "--"]

        def run_python(*arguments):
            return buildah(*isolated, "python", *arguments, check=False)

        _check(run_python)
        assert buildah(*isolated, "id", "-u").stdout == "1000\n"
        found = buildah("inspect", "--format={{.OCIv1.Config.Entrypoint}}", "--type=image", "cpu")
        assert found.stdout == "[python -m]"
        # The data are where configs expect them, in a folder that root owns.
        training = tiny_training("/tmp/run", "data/sample", epochs=1, constant_epochs=1)
        trained = run_python("-m", "launch.train", *training)
        assert "finished 1 epochs" in trained.stdout, trained.stdout + trained.stderr
    finally:
        buildah("rm", "--all", check=False)
        buildah("rmi", "--all", "--force", check=False)
