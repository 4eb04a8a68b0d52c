process="" stopped=""
trap 'kill -TERM "$process" 2>/dev/null; stopped=yes' TERM
code=42
for ((start = 0; start <= {{ restarts }} && code > 1; start++)); do
  if ((start > 0)); then
    echo "exit code $code: starting again, $start of {{ restarts }}"
    sleep 10
  fi
  [[ -z $stopped ]] || break
  {{ interpreter }} -m launch.train {{ arguments | join_quoted }} &
  process=$!
  code=0
  wait "$process" || code=$?
  while kill -0 "$process" 2>/dev/null; do # a signal interrupted the waiting
    code=0
    wait "$process" || code=$?
  done
done
echo "ended with exit code $code"
