#!/usr/bin/env bash
# Every worker of the slice runs this as root when it boots, and so after a reboot again: it gets
# the project where it is not there yet, and starts training as the systemd unit pix2pix-{{ name }}.
set -euo pipefail
folder=${1:-/opt/{{ name }}}
mkdir -p "$folder"
cd "$folder"
exec >>log.txt 2>&1
export HOME=${HOME:-/root} # which services do not have
echo "start-up, $(date --utc)"

if [[ ! -e installed ]]; then
  rm -rf code venv
  git clone --quiet -- {{ repository | quote }} code
  git -C code checkout --quiet --detach {{ revision | quote }} --
  # Runtimes of TPU VMs have an older Python than the project needs; uv gets one where it is missing.
  python3 -m pip install --quiet --upgrade --target=uv --no-deps --require-hashes -r code/installers.txt
  uv/bin/uv venv --quiet --python=3.11 venv
  (cd code && ../uv/bin/uv pip install --quiet --python=../venv --compile-bytecode \
    -c constraints-hashed.txt -c installers.txt --build-constraints=installers.txt -e '.[tpu,storage,wandb,mlflow]')
  touch installed
fi

cat >train.sh <<'END_OF_TRAIN'
{% include "tpu_vm/train.sh" %}
END_OF_TRAIN
if systemctl is-active --quiet pix2pix-{{ name }}; then
  echo "training runs already"
else
  systemd-run --quiet --collect --unit=pix2pix-{{ name }} --setenv="HOME=$HOME" \
    --property=TimeoutStopSec=600 \
    --property="StandardOutput=append:$PWD/log.txt" --property="StandardError=append:$PWD/log.txt" \
    bash "$PWD/train.sh"
fi
