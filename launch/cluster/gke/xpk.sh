#!/usr/bin/env bash
# A JobSet that xpk writes and submits to a cluster that it made. It restarts on 42 and on signals by
# itself. The slice goes by its topology, as sizes alone leave some open.
set -euo pipefail
if ! command -v xpk >/dev/null; then
  echo "error: xpk is not installed here: pip install xpk" >&2
  exit 1
fi
exec xpk workload create \
  --workload={{ name | quote }} \
  --cluster={{ cluster | quote }} \
{% if project %}
  --project={{ project | quote }} \
{% endif %}
{% if zone %}
  --zone={{ zone | quote }} \
{% endif %}
{% if namespace %}
  --namespace={{ namespace | quote }} \
{% endif %}
{% if priority %}
  --priority={{ priority | quote }} \
{% endif %}
  --env=JAX_PLATFORMS=tpu \
  --tpu-type={{ (device.accelerator_type.split("-")[0] ~ "-" ~ device.topology) | quote }} \
  --num-slices={{ slices }} \
  --docker-image={{ image | quote }} \
  --max-restarts={{ restarts }} \
  --termination-grace-period-seconds=600 \
  --command={{ ("exec python -m launch.train " ~ (arguments | join_quoted)) | literal | quote }}
