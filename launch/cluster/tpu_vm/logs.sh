#!/usr/bin/env bash
# The last lines of every worker's log: logs.sh NAME [--zone=ZONE --project=PROJECT]
set -euo pipefail
name=${1:?name of the slice}
exec "$(dirname "$0")/run_on_all_workers.sh" "$name" "hostname; tail --lines=20 /opt/$(printf %q "$name")/log.txt" "${@:2}"
