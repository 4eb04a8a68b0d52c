#!/usr/bin/env bash
# Runs a command on every worker: run_on_all_workers.sh NAME COMMAND [--zone=ZONE --project=PROJECT]
set -euo pipefail
name=${1:?name of the slice} command=${2:?command to run}
exec gcloud compute tpus tpu-vm ssh "$name" --worker=all --command="$command" "${@:3}"
