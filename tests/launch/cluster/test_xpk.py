"""xpk's own workload for the command, compared with our file for the same slice.

xpk has an environment of its own, as it pins versions of packages that we use. Its dry run asks no
cluster and needs neither kubectl nor gcloud.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import venv
from pathlib import Path

import jsonschema
import pytest

from launch.cluster.accelerators import accelerator, of_four
from tests import commands
from tests.faults import runs
from tests.launch.cluster import manifests

pytestmark = [pytest.mark.slow, pytest.mark.long]  # xpk has to be installed
REQUIREMENTS = Path(__file__).with_name("requirements-xpk.txt")
PLACE = {"project": "p", "zone": "us-central1-a"}  # without these it asks gcloud
SMALL = {"data.image_size": 32, "generator.depth": 3}
LIST = """
import json
from xpk.core.system_characteristics import *
print(json.dumps({
    name: [x.topology, x.vms_per_slice, x.chips_per_vm, x.gke_accelerator]
    for name, x in UserFacingNameToSystemCharacteristics.items()
    if x.accelerator_type == AcceleratorType.TPU
}))
"""


@pytest.fixture(scope="session")
def xpk(tmp_path_factory):
    """The folder of xpk's executables."""
    folder = tmp_path_factory.mktemp("xpk")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "-r", REQUIREMENTS], check=True, timeout=900)
    return folder / "bin"


def _workload(xpk, script, folder):
    """The workload that xpk would submit for this script."""
    output = folder / "workload.yaml"
    # The environment has only these programs.
    tools = folder / "tools"
    tools.mkdir()
    (tools / "xpk").symlink_to(xpk / "xpk")
    result = subprocess.run(
        ["/bin/bash", "-c", f"{script.rstrip()} --dry-run --output-manifest-file={output}"],
        env={"PATH": str(tools), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (item,) = manifests.objects(output.read_text())
    return item


@pytest.mark.parametrize("name", ["v5e-8", "v5e-256", "v5p-8", "v5p-512", "v6e-64", "v4-768"])
def test_it_asks_for_the_slice_that_our_file_asks_for(xpk, tmp_path, name):
    script = manifests.render(
        "gke/xpk.sh", name, restarts=7, namespace="ml", priority="high", **PLACE
    )
    theirs = _workload(xpk, script, tmp_path)
    (ours,) = manifests.objects(
        manifests.render("gke/jobset_tpu.yaml", name, restarts=7, as_xpk=True)
    )
    jsonschema.validate(
        theirs | {"metadata": ours["metadata"]},  # the schema allows no empty values
        manifests.JOBSET,
    )
    assert theirs["metadata"]["annotations"] == ours["metadata"]["annotations"]
    assert theirs["spec"]["failurePolicy"] == ours["spec"]["failurePolicy"]
    their_job, our_job = manifests.job(theirs)["spec"], manifests.job(ours)["spec"]
    for field in ("parallelism", "completions", "backoffLimit"):
        assert their_job[field] == our_job[field], field
    for code in (1, 42, 134, 137, 139, 143):
        assert manifests.action(their_job, code) == manifests.action(our_job, code), code
    their_pod, our_pod = their_job["template"]["spec"], our_job["template"]["spec"]
    for field in ("nodeSelector", "restartPolicy", "terminationGracePeriodSeconds", "tolerations"):
        assert their_pod[field] == our_pod[field], field
    assert their_pod["priorityClassName"] == "high"
    (their_container,), (our_container,) = their_pod["containers"], our_pod["containers"]
    assert their_container["resources"]["limits"] == our_container["resources"]["limits"]
    assert their_container["image"] == our_container["image"]
    assert {"name": "JAX_PLATFORMS", "value": "tpu"} in their_container["env"]
    assert {"name": "JAX_PLATFORMS", "value": "tpu"} in our_container["env"]


def test_slices_are_those_that_xpk_knows(xpk):
    """They agree in every size that both know; xpk has no v5e of one or four chips."""
    out = subprocess.check_output([xpk / "python", "-c", LIST], text=True)
    systems = json.loads(out)
    seen, others = 0, set()
    for theirs, (topology, hosts, chips, selector) in systems.items():
        kind, size = theirs.split("-")
        if "x" in size or kind.startswith("tpu7"):
            continue
        name = theirs.replace("v5litepod", "v5e")
        if kind == "v5p" and int(size) > 12288:  # more than a slice may have
            continue
        ours = of_four(accelerator(name))
        assert ours.accelerator_type == theirs
        assert (ours.hosts, ours.chips_per_host, ours.node_selector) == (hosts, chips, selector)
        if ours.topology != topology:
            others.add(name)
        # The topology, which the script gives, names this very slice.
        assert systems[f"{kind}-{ours.topology}"] == [ours.topology, hosts, chips, selector]
        seen += 1
    assert seen > 150
    # Only for some sizes of v4 does Google document one topology; otherwise xpk takes the longest.
    assert all(name.startswith("v4-") and int(name[3:]) >= 768 for name in others), others


def test_its_container_passes_signals_and_exit_codes_on(xpk, sample_data_dir, tmp_path):
    """Runs its container's command here: SIGTERM saves, and the exit code is 42."""
    workdir = tmp_path / "run"
    training = commands.tiny_training(workdir, sample_data_dir, epochs=60, **SMALL)
    arguments = [*training, "--config.note='$HOME $(JAX_PLATFORMS)"]
    text = manifests.render("gke/xpk.sh", "v5e-8", arguments=arguments, **PLACE)
    item = _workload(xpk, text, tmp_path)
    (container,) = manifests.job(item)["spec"]["template"]["spec"]["containers"]
    line = next(line for line in container["command"][-1].splitlines() if "launch.train" in line)
    quoted = line.strip().removeprefix("(").partition(") & PID=")[0]
    words = [manifests.expanded(word) for word in shlex.split(quoted)]
    assert words == ["exec", "python", "-m", "launch.train", *arguments]
    script = container["command"][-1].replace(shlex.quote(arguments[-1].replace("$", "$$")), "")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(commands.ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": commands.UNOPTIMISED,
    }
    with subprocess.Popen(
        [*container["command"][:-1], script],
        cwd=commands.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pod:
        try:
            runs.wait_for(lambda: runs.logged_step(workdir) >= 2, [pod])
            pod.send_signal(signal.SIGTERM)
            out, _ = pod.communicate(timeout=120)
        finally:
            pod.kill()
    assert pod.returncode == 42, out
    assert "EXIT_CODE=42" in out
