#!/usr/bin/env bash
# mpirun for runs that may be stopped: mpirun.sh -n 8 python -m launch.train …
# SIGTERM would make mpirun kill its processes a second later, and end with 1. SIGUSR1 it passes on
# to them: they save, and it ends with their 42.
set -uo pipefail
mpirun "$@" &
mpirun=$!
trap 'kill -USR1 "$mpirun" 2>/dev/null' TERM USR1

status=0
wait "$mpirun" || status=$?
while kill -0 "$mpirun" 2>/dev/null; do # a signal interrupted the waiting
  status=0
  wait "$mpirun" || status=$?
done
exit "$status"
