"""Checkpoints: which are kept, their names, and restoring elsewhere."""

import errno
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_pix2pix import environment as surroundings
from jax_pix2pix import sharding
from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.fit import fit
from jax_pix2pix.runs import file_digests
from jax_pix2pix.runs.checkpoint import Checkpoints
from jax_pix2pix.runs.workdir import build_system
from tests import untrained
from tests.tiny import tiny_config

SHAPES = {"kernel": jax.ShapeDtypeStruct((4, 16), jnp.float32)}


def _state(value, fsdp=1):
    mesh = sharding.make_mesh(fsdp, 8)
    array = np.full((4, 16), value, np.float32) + np.arange(16, dtype=np.float32)
    return jax.device_put({"kernel": array}, sharding.state_shardings(mesh, SHAPES))


@pytest.fixture
def saved(tmp_path):
    """Five steps; step 20 has the best score, and step 50 has none, as after SIGTERM."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", "ssim", keep_last=2)
    for step, ssim in ((10, 0.1), (20, 0.5), (30, 0.3), (40, 0.4), (50, None)):
        checkpoints.save(step, _state(step), ssim and {"ssim": ssim})
    checkpoints.close()
    return tmp_path / "checkpoints"


def test_keeps_the_last_and_the_best(saved):
    assert sorted(int(path.name) for path in saved.iterdir()) == [20, 40, 50]
    checkpoints = Checkpoints(saved, "ssim", read_only=True)
    assert checkpoints.resolve("best") == 20
    assert checkpoints.resolve("last") == checkpoints.latest() == 50
    assert checkpoints.resolve("40") == 40
    with pytest.raises(WorkdirError, match='no checkpoint "30"; use best, last or one of 20, 40'):
        checkpoints.resolve("30")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_the_lowest(tmp_path, value):
    for scores in ({1: 0.5, 2: value}, {3: 0.3, 4: 0.2, 5: 0.1}):  # two starts
        checkpoints = Checkpoints(tmp_path / "checkpoints", "ssim", keep_last=1)
        for step, ssim in scores.items():
            checkpoints.save(step, _state(step), {"ssim": ssim})
        checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [1, 5]
    assert Checkpoints(tmp_path / "checkpoints", "ssim", read_only=True).resolve("best") == 1


def test_without_scores_there_is_no_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, "ssim")
    with pytest.raises(WorkdirError, match="no checkpoint; train first"):
        checkpoints.resolve("last")
    checkpoints.save(10, _state(1))
    checkpoints.wait()
    with pytest.raises(WorkdirError, match="no checkpoint has a validation score"):
        checkpoints.resolve("best")
    checkpoints.close()


def test_a_checkpoint_beyond_the_last_step_is_one_line(tmp_path):
    config = tiny_config()
    untrained.save(tmp_path, config)
    config.epochs, config.constant_epochs, config.steps_per_epoch = 1, 1, untrained.STEP - 1
    with pytest.raises(WorkdirError, match="checkpoints/7 is beyond the last step, 6: use the con"):
        fit(build_system(config), config, sharding.make_mesh(1, 8), tmp_path, None)


def test_restores_onto_another_mesh(saved):
    mesh = sharding.make_mesh(2, 8)
    abstract = sharding.with_shardings(SHAPES, sharding.state_shardings(mesh, SHAPES))
    restored = Checkpoints(saved, "ssim", read_only=True).restore(20, abstract)["kernel"]
    np.testing.assert_array_equal(restored, _state(20)["kernel"])
    assert restored.sharding == abstract["kernel"].sharding
    assert {shard.data.shape for shard in restored.addressable_shards} == {(4, 8)}


def test_saving_a_step_again_changes_nothing(saved):
    checkpoints = Checkpoints(saved, "ssim", keep_last=2)
    checkpoints.save(50, _state(0), {"ssim": 0.9})
    checkpoints.wait()
    assert checkpoints.resolve("best") == 20
    checkpoints.close()


def test_says_where_it_comes_from(saved):
    (path,) = (saved / "20" / "environment").glob("metadata")
    environment = json.loads(path.read_text())
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    assert environment["revision"].partition("+")[0] == (commit or "unknown")
    assert environment["jax"] == jax.__version__
    assert environment["XLA_FLAGS"] == os.environ["XLA_FLAGS"]
    assert environment["device"] in Path("/proc/cpuinfo").read_text("utf-8")
    assert (environment["devices"], environment["processes"]) == (8, 1)


def test_a_package_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(surroundings, "PACKAGES", ("jax", "no-such-package"))
    environment = surroundings.environment.__wrapped__()
    assert environment["jax"] == jax.__version__
    assert environment["no-such-package"] == "not installed"


@pytest.mark.parametrize(
    "package", ["orbax-checkpoint", "tensorflow-cpu", "tensorflow-datasets", "libtpu"]
)
def test_versions_are_recorded_without_importing(saved, package):
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        version = "not installed"
    recorded = json.loads((saved / "20" / "environment" / "metadata").read_text())
    assert recorded[package] == version


def test_recording_does_not_import_tensorflow():
    code = (
        "import sys; from jax_pix2pix.environment import environment; environment(); "
        "sys.exit(any(name.split('.')[0] == 'tensorflow' for name in sys.modules))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=300)


def test_what_the_compiler_is_told_is_recorded(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_some_flag=true")
    before = surroundings.environment.__wrapped__()
    with jax.default_matmul_precision("highest"):
        environment = surroundings.environment.__wrapped__()
    assert before["matmul_precision"] is None and environment["matmul_precision"] == "highest"
    assert environment["LIBTPU_INIT_ARGS"] == "--xla_tpu_some_flag=true"
    assert environment["platform"] == jax.devices()[0].client.platform_version


def test_two_changes_of_a_commit_are_two_revisions(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    path = tmp_path / "environment.py"
    monkeypatch.setattr(surroundings, "__file__", str(path))
    path.write_bytes(b"whole\n")
    git("add", ".")
    git("commit", "-q", "-m", "whole")
    revisions = [surroundings._revision()]
    for content in (b"one\n", b"another, \xff\n"):
        path.write_bytes(content)
        revisions.append(surroundings._revision())
    commit = git("rev-parse", "HEAD")
    assert revisions[0] == commit and len(set(revisions)) == 3
    assert all(re.fullmatch(rf"{commit}\+[0-9a-f]{{12}}", text) for text in revisions[1:])


def test_a_failed_save_names_the_one_that_is_whole(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints", "ssim", keep_last=1)
    checkpoints.save(10, _state(1))
    checkpoints.wait()

    def fail(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_digests, "write", fail)
    checkpoints.save(20, _state(2))
    with pytest.raises(WorkdirError, match=r"No space left on device\); step 10 is whole"):
        checkpoints.wait()


def test_another_version_is_a_warning_that_names_it(saved):
    (path,) = (saved / "20" / "environment").glob("metadata")
    environment = json.loads(path.read_text())
    assert environment["devices"] == 8
    assert {"jax", "python", "revision", "XLA_FLAGS", "device", "processes"} <= environment.keys()
    environment["jaxlib"] = "0.0.1"
    environment["formerly"] = 1
    del environment["optax"]
    path.write_text(json.dumps(environment))
    file_digests.write(saved / "20")
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _state(0)
    )
    with pytest.warns(UserWarning, match=r"not bit for bit: jaxlib was 0\.0\.1, is") as warned:
        Checkpoints(saved, "ssim", read_only=True).restore(20, abstract)
    (message,) = [str(warning.message) for warning in warned if "jaxlib" in str(warning.message)]
    assert "optax was None, is " in message and "formerly was 1, is None" in message
    assert message.count(" was ") == 4  # one is in "was written elsewhere"
