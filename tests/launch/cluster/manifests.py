"""Renders the files of launch.submit, and raises where an API server would refuse them."""

import functools
import json
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils

from launch.cluster import platforms
from launch.cluster.accelerators import Gpus, accelerator, of_four

VERSIONS = ("1.29", "1.37")  # the first with backoffLimitPerIndex by default, and the last
JOBSET = json.loads(Path(__file__).with_name("jobset.schema.json").read_text(encoding="utf-8"))
# Keys whose objects may have any keys in Kubernetes.
NAMES = {
    "labels": {"kueue.x-k8s.io/queue-name"},
    "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology"},
    "selector": {"batch.kubernetes.io/job-name"},
    "nodeSelector": {
        "cloud.google.com/gke-accelerator",
        "cloud.google.com/gke-spot",
        "cloud.google.com/gke-tpu-accelerator",
        "cloud.google.com/gke-tpu-topology",
    },
    "requests": {"google.com/tpu", "nvidia.com/gpu"},
    "limits": {"google.com/tpu", "nvidia.com/gpu"},
}

# Uncached, it reads several MB for each object.
utils.schema_contents = functools.cache(utils.schema_contents)


def render(template, name, nodes=1, as_xpk=False, **values):
    """A template's text for an accelerator, without the options that are not given.

    as_xpk: whether hosts have at most four chips, as those that xpk makes.
    """
    device = accelerator(name)
    device = of_four(device) if as_xpk else device
    options = dict.fromkeys(
        (
            "namespace", "queue", "priority", "service_account", "volume", "secret", "spot",
            "project", "zone",
        )
    )  # fmt: skip
    given = {"name": "run-a", "image": "img:1", "restarts": 100, "cluster": "c", "arguments": []}
    given["slices"] = 1
    nodes = nodes if isinstance(device, Gpus) else device.hosts
    return platforms.render(template, options | given | {"device": device, "nodes": nodes} | values)


def objects(text):
    return list(yaml.safe_load_all(text))


def job(item):
    """The only Job of a JobSet, with the set's metadata; for a Job, the Job itself."""
    if item["kind"] == "Job":
        return item
    (replicated,) = item["spec"]["replicatedJobs"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": item["metadata"] | replicated["template"].get("metadata", {}),
        "spec": replicated["template"]["spec"],
    }


def validate(item, version):
    """Raises an exception if the API server of this version would refuse the object."""
    if item.get("kind") == "JobSet":
        jsonschema.validate(item, JOBSET)
        item = job(item)
    kubernetes_validate.validate(item, version, strict=True)
    _check_names(item)


def _check_names(value, key=None):
    if isinstance(value, dict):
        unknown = set(value) - NAMES.get(key, set(value))
        assert not unknown, f"{key}: {unknown}"
        for key, inner in value.items():
            _check_names(inner, key)
    elif isinstance(value, list):
        for inner in value:
            _check_names(inner)


def expanded(text):
    """A container's argument as Kubernetes gives it: every variable is known, and $$ is a $."""
    known = {"$$": "$"}
    return re.sub(r"\$\$|\$\([^)]*\)", lambda found: known.get(found[0], "expanded"), text)


def action(spec, code):
    """The action of a Job's podFailurePolicy for a container that ended with this code."""
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
    return "Count"
