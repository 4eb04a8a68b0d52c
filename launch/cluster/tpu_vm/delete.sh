#!/usr/bin/env bash
# Deletes the slice and what asked for it: delete.sh NAME [--zone=ZONE --project=PROJECT]
set -euo pipefail
name=${1:?name of the slice}
exec gcloud compute tpus queued-resources delete "$name" --force --quiet "${@:2}"
