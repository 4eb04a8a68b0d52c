"""Files for Kubernetes: a server accepts them, and they express the flags and exit codes."""

import copy
import os
import signal
import subprocess
import sys
import time

import jsonschema
import pytest
from kubernetes_validate import ValidationError

from launch.cluster.accelerators import accelerator
from launch.cluster.platforms import PLATFORMS
from tests import commands
from tests.commands import submit
from tests.faults import runs
from tests.launch.cluster import manifests

REFUSALS = (jsonschema.ValidationError, ValidationError, KeyError, ValueError, AssertionError)
# Characters that YAML, a shell or Kubernetes might interpret.
ODD = "--config.name=a: 'b' \"c\" #d {e} <f> \\n $g ü\U0001f600\u00a0"
EVERY_FLAG = (
    "--image=europe-docker.pkg.dev/p/r/train:1",
    "--namespace=ml",
    "--queue=user-queue",
    "--priority=high",
    "--service_account=trainer",
    "--volume=claim:/runs/",
    "--secret=wandb",
    "--spot",
    "--restarts=7",
    "--name=Lungs_3",
    "--workdir=/runs/a",
    "--submission=lungs",
    "--config.data.data_dir=/runs/data",
    "--config.data.batch_size=64",
)
SMALL = {"data.image_size": 32, "generator.depth": 3}
ACCELERATORS = {"gke/jobset_tpu.yaml": "v5e-16", "gke/job_gpu.yaml": "h100:8"}


BUCKET = ("--workdir=gs://b/a", "--config.data.data_dir=gs://b/data")
REFUSED = {
    (*BUCKET, "--image=i", "--accelerator=v5e-16", "--nodes=1"): (
        "--nodes=1: leave it out, as --accelerator=v5e-16 says how many hosts there are"
    ),
    ("--workdir=gs://b/a",): "--image is missing, which gke needs",
    ("--workdir=runs/a", "--image=i"): "--workdir=runs/a: a pod or rented machine has no files",
    ("--workdir=/run/a", "--image=i", "--volume=c:/runs"): "--workdir=/run/a: a pod or",
    ("--workdir=/runs/../a", "--image=i", "--volume=c:/runs"): "/runs/../a: a pod or",
    ("--workdir=/runs/a", "--image=i", "--volume=/runs"): "--volume=/runs is not of the form",
    (*BUCKET, "--image=i", "--namespace=On"): "--namespace=On is not of the form that it needs: ml",
    (*BUCKET, "--image=-i"): "--image=-i is not of the form",
    (*BUCKET, "--image=i", "--slices=2"): "--slices=2: only TPUs come in slices",
    (*BUCKET, "--image=i", "--accelerator=v5e-16", "--config.fsdp=32"): (
        "config.fsdp=32 does not divide over 16 devices of a slice"
    ),
    (*BUCKET, "--image=i\nspec: 1"): r"--image=i\nspec: 1: no flag takes control characters",
    ("--workdir=gs://b/a", "--image=i", "--partition=p"): "--partition: gke has no such flag",
}


EIGHT = (*BUCKET, "--image=i", "--accelerator=v5e-8")


def _call(*arguments):
    return ("gke", "--dry_run", "--config=configs/lidc_mask2ct.py", *arguments)


SUBMITTED = {
    "tpu": _call(*EVERY_FLAG, "--accelerator=v5e-16", "--wandb=lungs"),
    "gpu": _call(*EVERY_FLAG, "--accelerator=h100:8", "--nodes=2", "--wandb=lungs"),
}


@pytest.fixture(scope="module")
def called():
    """The result of each call: {arguments: (exit code, stdout, stderr)}."""
    calls = [*SUBMITTED.values(), _call(*EIGHT), _call(*EIGHT, "--nodes=2")]
    calls += [_call("--accelerator=h100:8", *flags) for flags in REFUSED]
    return dict(zip(calls, submit(calls), strict=True))


@pytest.fixture(params=SUBMITTED)
def submitted(called, request):
    code, out, err = called[SUBMITTED[request.param]]
    assert (code, err) == (0, "")
    return manifests.objects(out)


@pytest.mark.slow
@pytest.mark.parametrize("version", manifests.VERSIONS)
def test_servers_take_files_with_every_flag(submitted, version):
    for item in submitted:
        manifests.validate(item, version)


@pytest.mark.parametrize("version", manifests.VERSIONS)
@pytest.mark.parametrize(
    "name", ["v4-8", "v5e-1", "v5e-256", "v5p-512", "v6e-64", "l4:1", "gpu:4", "h100:8"]
)
def test_servers_take_files_with_no_flag(name, version):
    (template,) = {PLATFORMS["gke"].template[type(accelerator(name))]}
    for item in manifests.objects(manifests.render(template, name)):
        manifests.validate(item, version)


def _paths(value, path=()):
    """The path of every key in nested dicts and lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*path, index))


def test_every_misspelt_key_is_refused(submitted):
    found = 0
    for item in submitted:
        for *parents, key in _paths(item):
            wrong = copy.deepcopy(item)
            inner = wrong
            for parent in parents:
                inner = inner[parent]
            inner[f"{key}x"] = inner.pop(key)
            with pytest.raises(REFUSALS):
                manifests.validate(wrong, manifests.VERSIONS[-1])
                pytest.fail(f"{item['kind']} with {'.'.join(map(str, parents))}.{key}x passes")
            found += 1
    assert found > 70


def test_flags_are_where_they_belong(submitted):
    job = manifests.job(submitted[-1])
    assert {item["metadata"]["name"] for item in submitted} == {"lungs-3"}
    assert {item["metadata"]["namespace"] for item in submitted} == {"ml"}
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "user-queue"}
    pod = job["spec"]["template"]["spec"]
    assert (pod["priorityClassName"], pod["serviceAccountName"]) == ("high", "trainer")
    (container,) = pod["containers"]
    assert container["image"] == "europe-docker.pkg.dev/p/r/train:1"
    assert container["command"][-3:] == ["python", "-m", "launch.train"]
    assert container["envFrom"] == [{"secretRef": {"name": "wandb"}}]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert {"key": "cloud.google.com/gke-spot", "operator": "Exists"} in pod["tolerations"]
    assert container["args"] == [
        "--config=configs/lidc_mask2ct.py",
        "--config.data.data_dir=/runs/data",
        "--config.data.batch_size=64",
        "--workdir=/runs/a",
        "--wandb=lungs",
        "--submission=lungs",
    ]
    volume = {"name": "volume", "persistentVolumeClaim": {"claimName": "claim"}}
    assert volume in pod["volumes"]
    assert {"name": "volume", "mountPath": "/runs"} in container["volumeMounts"]


TEXTS = ("image", "namespace", "queue", "priority", "service_account", "secret")


@pytest.mark.parametrize("template", ACCELERATORS)
def test_text_reaches_the_pod_as_it_is(template):
    values = {name: ODD for name in TEXTS}
    text = manifests.render(template, ACCELERATORS[template], arguments=[ODD], **values)
    item = manifests.job(manifests.objects(text)[-1])
    pod = item["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [manifests.expanded(text) for text in container["args"]] == [ODD]
    assert container["image"] == ODD
    assert pod["priorityClassName"] == pod["serviceAccountName"] == ODD
    assert container["envFrom"] == [{"secretRef": {"name": ODD}}]
    assert item["metadata"]["namespace"] == item["metadata"]["labels"][
        "kueue.x-k8s.io/queue-name"
    ] == ODD  # fmt: skip


def _container(template):
    """(spec of the pod, its container, its variables) with no options given."""
    text = manifests.render(template, ACCELERATORS[template])
    pod = manifests.job(manifests.objects(text)[-1])["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container, {item["name"]: item.get("value") for item in container["env"]}


@pytest.mark.parametrize("template", ACCELERATORS)
def test_copies_of_buckets_leave_the_writable_layer_alone(template):
    pod, container, variables = _container(template)
    assert {"name": "cache", "emptyDir": {}} in pod["volumes"]
    assert {"name": "cache", "mountPath": variables["XDG_CACHE_HOME"]} in container["volumeMounts"]
    assert "envFrom" not in container
    assert "cloud.google.com/gke-spot" not in str(pod)


def test_a_pod_without_its_device_does_not_train_on_the_cpu():
    for template, platform in (("gke/job_gpu.yaml", "cuda"), ("gke/jobset_tpu.yaml", "tpu")):
        assert _container(template)[2]["JAX_PLATFORMS"] == platform


def test_a_pod_with_gpus_has_no_rights():
    pod, container, _ = _container("gke/job_gpu.yaml")
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def _run_in_pod(program, ulimit):
    """Starts what a TPU pod runs, with `program` in place of launch.train. -> Popen"""
    pod, container, _ = _container("gke/jobset_tpu.yaml")
    # On GKE only root may have a capability; this one raises the limit on locked memory.
    assert pod["securityContext"]["runAsUser"] == 0
    assert "runAsNonRoot" not in pod["securityContext"]
    rights = container["securityContext"]["capabilities"]
    assert rights == {"drop": ["ALL"], "add": ["SYS_RESOURCE"]}
    *shell, python, module, train = container["command"]
    assert (python, module, train) == ("python", "-m", "launch.train")
    environment = os.environ | {"BASH_FUNC_ulimit%%": f"() {{ {ulimit}; }}"}
    return subprocess.Popen(
        [*shell, sys.executable, "-c", program, "an argument"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


PROGRAM = "import os, sys, time; print(os.getpid(), sys.argv[1:], flush=True);"


def test_a_pod_with_tpus_raises_its_limit_first_and_is_then_the_run_itself():
    """A stand-in for `ulimit`, which this machine may refuse, prints what it is asked for."""
    with _run_in_pod(f"{PROGRAM} sys.exit(42)", 'echo "$@"') as pod:
        out, _ = pod.communicate(timeout=60)
    assert out == f"-l 68719476736\n{pod.pid} ['an argument']\n" and pod.returncode == 42
    with _run_in_pod(f"{PROGRAM} time.sleep(60)", ":") as pod:
        pod.stdout.readline()
        pod.send_signal(signal.SIGTERM)
        assert pod.wait(timeout=60) == -signal.SIGTERM


def test_a_pod_that_may_not_raise_its_limit_ends_for_good():
    with _run_in_pod(PROGRAM, "return 1") as pod:
        assert pod.communicate(timeout=60) == ("", None) and pod.returncode == 1


def test_a_slice_has_a_pod_on_each_host():
    (item,) = manifests.objects(manifests.render("gke/jobset_tpu.yaml", "v5e-256"))
    spec = manifests.job(item)["spec"]
    assert (spec["parallelism"], spec["completions"]) == (64, 64)
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    tpus = {"google.com/tpu": 4}
    assert pod["containers"][0]["resources"] == {"requests": tpus, "limits": tpus}


def test_each_slice_is_a_job():
    (item,) = manifests.objects(manifests.render("gke/jobset_tpu.yaml", "v5e-256", slices=3))
    (of_slices,) = item["spec"]["replicatedJobs"]
    assert of_slices["replicas"] == 3
    assert of_slices["template"]["spec"]["parallelism"] == 64  # pods of one


def test_eight_chips_are_one_host_or_with_two_nodes_two(called):
    """GKE has ct5lp-hightpu-8t, of all eight, and the topology 2x4 of ct5lp-hightpu-4t too."""
    for arguments, pods, chips in ((EIGHT, 1, 8), ((*EIGHT, "--nodes=2"), 2, 4)):
        code, out, err = called[_call(*arguments)]
        assert (code, err) == (0, "")
        spec = manifests.job(*manifests.objects(out))["spec"]
        assert (spec["parallelism"], spec["completions"]) == (pods, pods)
        pod = spec["template"]["spec"]
        assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x4"
        assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}


@pytest.mark.parametrize(("name", "selector"), [("h200:8", "nvidia-h200-141gb"), ("gpu:8", None)])
def test_a_node_has_one_pod_with_all_its_gpus(name, selector):
    service, job = manifests.objects(manifests.render("gke/job_gpu.yaml", name, nodes=3))
    spec = job["spec"]
    assert (spec["parallelism"], spec["completions"]) == (3, 3)
    pod = spec["template"]["spec"]
    gpus = {"nvidia.com/gpu": 8}
    assert pod["containers"][0]["resources"] == {"requests": gpus, "limits": gpus}
    assert pod.get("nodeSelector", {}).get("cloud.google.com/gke-accelerator") == selector
    # A pod's name gets into DNS through the Service that its subdomain names and that selects it.
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert service["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("template", ACCELERATORS)
def test_exit_codes(template):
    text = manifests.render(template, ACCELERATORS[template], restarts=7)
    item = manifests.objects(text)[-1]
    spec = manifests.job(item)["spec"]
    assert [code for code in range(1, 256) if manifests.action(spec, code) == "FailJob"] == [1]
    if item["kind"] == "JobSet":
        policy = item["spec"]["failurePolicy"]
        assert policy["maxRestarts"] == 7 and spec["backoffLimit"] == 0
        assert policy["rules"] == [
            {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
        ]
    else:
        assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (7, 0)


@pytest.mark.parametrize("arguments", REFUSED)
def test_refusals(called, arguments):
    code, _, err = called[_call("--accelerator=h100:8", *arguments)]
    assert code == 1
    assert REFUSED[arguments] in commands.error_line(err)


def _pods(data_dir, folder, **fields):
    """-> function: starts the Job's pod of a number, with the variables that Kubernetes sets."""
    training = commands.tiny_training(folder / "run", data_dir, **SMALL, **fields)
    pods = ["--image=i", f"--volume=claim:{folder}", "--accelerator=gpu:1", "--nodes=2"]
    out, _ = commands.run("launch.submit", "gke", "--dry_run", *training, *pods)
    _, job = manifests.objects(out)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert given["JAX_COORDINATOR_ADDRESS"] == "run-0.run:1234"
    given["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{commands.free_port()}"
    del given["JAX_PLATFORMS"], given["XDG_CACHE_HOME"]  # for pods with GPUs and a volume
    (index,) = (variable for variable in container["env"] if "valueFrom" in variable)
    assert index["valueFrom"]["fieldRef"]["fieldPath"] == (
        "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    )
    assert container["command"] == ["python", "-m", "launch.train"]

    def start(number):
        variables = given | {index["name"]: str(number)}
        return commands.start("launch.train", *container["args"], variables=variables)

    return start


@pytest.mark.slow
def test_pods_of_a_job_train_on_together_after_one_is_killed(sample_data_dir, tmp_path):
    """Each pod that ended is started again by itself, as a Job does, and none ends with 1."""
    start = _pods(sample_data_dir, tmp_path, heartbeat_seconds=10, checkpoint_every_steps=4)
    codes = []
    pods = [start(0), start(1)]
    try:
        runs.wait_for(lambda: runs.logged_step(tmp_path / "run") >= 6, pods)
        pods[1].kill()
        deadline = time.monotonic() + 600
        while any(pod.poll() != 0 for pod in pods):
            assert time.monotonic() < deadline, codes
            for number, pod in enumerate(pods):
                if pod.poll():
                    out, err = pod.communicate()
                    codes.append((number, pod.returncode))
                    assert pod.returncode in (-signal.SIGKILL, -signal.SIGABRT, 42), out + err
                    pods[number] = start(number)
            time.sleep(0.1)
    finally:
        for pod in pods:
            pod.kill()
            pod.communicate()
    assert {number for number, _ in codes} == {0, 1} and len(codes) < 8, codes
    assert [line["step"] for line in commands.metrics(tmp_path / "run")] == list(range(1, 21))
