#!/usr/bin/env bash
# One run under torchrun, as overrides of `pi05 train` describe it.
#
#   one machine      uv run launch/torchrun.sh experiment=pi05_pretrain engine=ddp data.root=/data
#   many machines    the same on each, with NODES and RENDEZVOUS set (below); under SLURM, slurm.sbatch does that
#
# Ctrl-C, SIGTERM and SIGUSR1 ask every rank to finish its step, save and leave, which is status 0; one machine's signal
# is enough for all. A second Ctrl-C ends at once. After a failure the last line is the error of the rank that failed.
set -euo pipefail

# Machines that train together; each of them runs this script. 1:4 with MAX_RESTARTS: as many as there are, which may
# change (docs/launch.md).
NODES=${NODES:-1}

# Where they meet: host:port of one of them, the same on all. Ranks listen on further free ports of that machine and of
# each other, so a firewall between them has to let those through.
RENDEZVOUS=${RENDEZVOUS:-}

# Tells apart runs that meet at one host and port; the same on all machines of a run.
RUN_ID=${RUN_ID:-pi05}

# How the others reach this machine, where its host name does not resolve.
ADDRESS=${ADDRESS:-}

# Processes on this machine, one for each GPU; machines may differ. Without a GPU it is one.
PROCESSES=${PROCESSES:-$(command -v nvidia-smi >/dev/null && echo gpu || echo 1)}

# How often a failed run is started again from its newest checkpoint. 0: a failure ends it.
MAX_RESTARTS=${MAX_RESTARTS:-0}

# NCCL finds its way on most machines. Where it does not, set these in the environment or here:
#   NCCL_SOCKET_IFNAME=eth0      network interface, without InfiniBand for all data: see `ip -br address`
#   GLOO_SOCKET_IFNAME=eth0      the same for what ranks agree on from the CPU
#   NCCL_IB_HCA=mlx5_0,mlx5_1    InfiniBand or RoCE adapters, without those of the storage: see `ibstat -l`
#   NCCL_IB_GID_INDEX=3          RoCE v2 alone: see `show_gids`
#   NCCL_IB_DISABLE=1            leave InfiniBand alone, to see whether it is at fault
#   NCCL_DEBUG=INFO              say what was chosen; the first thing to try when ranks hang at the start

if [[ -n $RENDEZVOUS ]]; then
  where=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-endpoint "$RENDEZVOUS" --rdzv-id "$RUN_ID")
  [[ -z $ADDRESS ]] || where+=(--local-addr "$ADDRESS")
elif [[ $NODES == 1 ]]; then
  where=(--standalone)
else
  echo "launch/torchrun.sh: RENDEZVOUS: got nothing, expected host:port of one of the $NODES machines. Set it." >&2
  exit 2
fi

# torchrun would pass signals on and kill after 30 seconds who has not left. It ignores them here, and so do the ranks
# until they listen.
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
error=$scratch/error.json
(
  trap '' INT TERM HUP USR1
  export TORCHELASTIC_ERROR_FILE=$error
  exec torchrun "${where[@]}" --nproc-per-node "$PROCESSES" --max-restarts "$MAX_RESTARTS" \
    --signals-to-handle SIGQUIT -m pi05_train.commands.main train "$@"
) &
agent=$!

ask_to_save() {
  trap '' TERM HUP USR1
  trap 'pkill -KILL -P "$agent"; kill -KILL "$agent"' INT
  # Again and again, for ranks that do not listen yet.
  while kill -0 "$agent"; do
    pkill -USR1 -P "$agent" || :
    sleep 2
  done 2>/dev/null &
}
trap ask_to_save INT TERM HUP USR1

while kill -0 "$agent" 2>/dev/null; do
  wait "$agent" || : # a signal ends it early
done
status=0
wait "$agent" || status=$?
# A rank's error has its exit code beside it; torchrun's own, as of a meeting point that is gone, has none.
last_word='import json, sys
error = json.load(open(sys.argv[1]))["message"]
if "errorCode" in error: print(*error["message"].split())'
if [[ -e $error ]]; then
  python -c "$last_word" "$error" | tee -a "${ERROR_LINE:-/dev/null}" >&2
fi
exit "$status"
