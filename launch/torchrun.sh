#!/usr/bin/env bash
# One stage under torchrun on this machine: uv run launch/torchrun.sh experiment=pi05_pretrain data.root=/data
# One process, because engine=single owns one device; it refuses to start in several.
set -euo pipefail
exec torchrun --standalone --nproc-per-node 1 -m pi05_train.train "$@"
