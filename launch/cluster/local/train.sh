#!/usr/bin/env bash
# One run by several processes of this machine, each with its own CPU devices. SIGTERM and SIGUSR1
# reach all of them: they save and exit with 42, as this script then does.
set -uo pipefail
cd {{ directory | quote }} || exit 1
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={{ device.devices }}

processes=()
trap 'kill -TERM "${processes[@]}" 2>/dev/null' TERM INT USR1
for ((process = 0; process < {{ nodes }}; process++)); do
  {{ python | quote }} -m launch.train {{ arguments | join_quoted }} \
    --coordinator_address=127.0.0.1:{{ port }} --num_processes={{ nodes }} --process_id="$process" &
  processes+=("$!")
done

# Of different exit codes the smallest that is not 0 counts: others of a run whose process ended
# with 1 are aborted.
code=0
for process in "${processes[@]}"; do
  status=0
  wait "$process" || status=$?
  while kill -0 "$process" 2>/dev/null; do # a signal interrupted the waiting
    status=0
    wait "$process" || status=$?
  done
  if ((status != 0 && (code == 0 || status < code))); then
    code=$status
  fi
done
exit "$code"
