#!/usr/bin/env bash
# Asks for a slice of TPUs, as a queued resource, whose workers train as soon as they have booted.
# One of the same name that was preempted or could not be had is deleted first, so that the same
# command goes on from the workdir.
set -euo pipefail
flags=({{ ["--zone=" ~ zone, "--project=" ~ project] | join_quoted }})

startup=$(mktemp)
trap 'rm -f "$startup"' EXIT
cat >"$startup" <<'END_OF_STARTUP'
{% include "tpu_vm/startup.sh" %}
END_OF_STARTUP

state=$(gcloud compute tpus queued-resources describe {{ name }} "${flags[@]}" \
  --format='value(state.state)' 2>/dev/null) || true
if [[ $state == SUSPENDED || $state == FAILED ]]; then
  gcloud compute tpus queued-resources delete {{ name }} "${flags[@]}" --force --quiet
fi
gcloud compute tpus queued-resources create {{ name }} "${flags[@]}" \
  --node-id={{ name }} \
  --accelerator-type={{ device.accelerator_type }} \
  --runtime-version={{ device.runtime }} \
{% if spot %}
  --spot \
{% endif %}
  --scopes=cloud-platform \
  --metadata-from-file=startup-script="$startup"
