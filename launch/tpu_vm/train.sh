#!/usr/bin/env bash
# The training process of this worker, started again until it is done (0) or meets what a restart
# would meet again (1). A SIGTERM, as before a reboot or the end of a spot machine, reaches the
# process too, which saves and exits with 42, and nothing starts again.
set -uo pipefail
cd "$(dirname "$0")/code" || exit 1

process="" stopped=""
trap 'kill -TERM "$process" 2>/dev/null; stopped=yes' TERM
code=42
for ((start = 0; start <= {{ restarts }} && code > 1; start++)); do
  if ((start > 0)); then
    echo "exit code $code: starting again, $start of {{ restarts }}"
    sleep 10
  fi
  [[ -z $stopped ]] || break
  ../venv/bin/python -m launch.train {{ arguments | join_quoted }} &
  process=$!
  code=0
  wait "$process" || code=$?
  while kill -0 "$process" 2>/dev/null; do # a signal interrupted the waiting
    code=0
    wait "$process" || code=$?
  done
done
echo "ended with exit code $code"
exit "$code"
