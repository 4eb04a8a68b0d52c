#!/usr/bin/env bash
# Asks for slices of TPUs, as one queued resource, whose workers train as soon as they have booted.
# One of the same name and run that was preempted or could not be had is deleted first, so that the
# same command goes on from the workdir; the workdir, of which the slice's metadata tell, is the run.
set -euo pipefail
flags=({{ ["--zone=" ~ zone, "--project=" ~ project] | join_quoted }})

workdir={{ workdir | quote }}

files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
printf %s "$workdir" >"$files/workdir"
cat >"$files/startup" <<'END_OF_STARTUP'
{% include "tpu_vm/startup.sh" %}
END_OF_STARTUP

if found=$(gcloud compute tpus queued-resources describe {{ name | quote }} "${flags[@]}" \
  --format='value[separator="\n"](state.state,tpu.nodeSpec[0].node.metadata.pix2pix_workdir)' \
  2>/dev/null); then
  { read -r state && read -r other; } <<<"$found" || true
  if [[ $other != "$workdir" ]]; then
    echo "error: the slice {{ name }} is another run's (${other:-of no workdir}): give a --name" >&2
    exit 1
  fi
  if [[ $state == SUSPENDED || $state == FAILED ]]; then
    gcloud compute tpus queued-resources delete {{ name | quote }} "${flags[@]}" --force --quiet
  fi
fi
gcloud compute tpus queued-resources create {{ name | quote }} "${flags[@]}" \
{% if slices > 1 %}
  --node-count={{ slices }} --node-prefix={{ name | quote }} \
{% else %}
  --node-id={{ name | quote }} \
{% endif %}
  --accelerator-type={{ device.accelerator_type | quote }} \
  --runtime-version={{ device.runtime | quote }} \
{% if spot %}
  --spot \
{% endif %}
  --scopes=cloud-platform \
  --metadata-from-file="startup-script=$files/startup,pix2pix_workdir=$files/workdir"
