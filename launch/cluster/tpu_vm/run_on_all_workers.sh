#!/usr/bin/env bash
# Runs a command on every worker of every slice: run_on_all_workers.sh NAME COMMAND [--zone=ZONE --project=PROJECT]
set -euo pipefail
name=${1:?name of the slice} command=${2:?command to run}
exec gcloud compute tpus queued-resources ssh "$name" --node=all --worker=all --command="$command" "${@:3}"
