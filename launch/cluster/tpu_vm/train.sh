#!/usr/bin/env bash
# The training process of this worker, started again until it is done (0) or meets what a restart
# would meet again (1). A SIGTERM, as before a reboot or the end of a spot machine, reaches the
# process too, which saves and exits with 42, and nothing starts again.
set -uo pipefail
cd "$(dirname "$0")/code" || exit 1

export JAX_PLATFORMS=tpu # without any it fails, instead of training on the CPU
{% if slices > 1 %}
# What the slices of one queued resource know of each other: which this is, how many there are, and
# where the first worker of the first one is. Without it each slice would train alone.
while IFS= read -r line; do
  if [[ $line =~ ^(MEGASCALE_[A-Z_]+):\ *\'(.*)\'$ ]]; then
    export "${BASH_REMATCH[1]}=${BASH_REMATCH[2]}"
  fi
done < <(curl --silent --fail --retry 5 --header "Metadata-Flavor: Google" \
  "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/tpu-env")
if [[ ${MEGASCALE_NUM_SLICES-} != {{ slices }} || -z ${MEGASCALE_SLICE_ID-} || -z ${MEGASCALE_COORDINATOR_ADDRESS-} ]]; then
  echo "error: this machine's metadata tell of ${MEGASCALE_NUM_SLICES:-no} slices and not of {{ slices }}"
  exit 1
fi
{% endif %}
{% set interpreter = "../venv/bin/python" %}
{% include "tpu_vm/restarts.sh" %}
exit "$code"
