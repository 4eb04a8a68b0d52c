#!/usr/bin/env bash
# The training process of this worker, started again until it is done (0) or meets what a restart
# would meet again (1). A SIGTERM, as before a reboot or the end of a spot machine, reaches the
# process too, which saves and exits with 42, and nothing starts again.
set -uo pipefail
cd "$(dirname "$0")/code" || exit 1

export JAX_PLATFORMS=tpu # without any it fails, instead of training on the CPU
{% set interpreter = "../venv/bin/python" %}
{% include "tpu_vm/restarts.sh" %}
exit "$code"
