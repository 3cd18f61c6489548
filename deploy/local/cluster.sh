#!/usr/bin/env bash
# Runs three members on loopback until Ctrl-C or SIGTERM, then stops them cleanly.
#
# Data and logs are kept in .cluster/ (CLUSTER_DIR), so that the next run goes on from them.
# KVD_BIN names the binary; CLUSTER_CLIENT_PORTS and CLUSTER_PEER_PORTS three ports each. Arguments
# are passed on to every member.
set -euo pipefail

kvd=${KVD_BIN:-target/release/kvd}
folder=${CLUSTER_DIR:-.cluster}
names=(m1 m2 m3)
read -r -a clients <<<"${CLUSTER_CLIENT_PORTS:-2379 22379 32379}"
read -r -a peers <<<"${CLUSTER_PEER_PORTS:-2380 22380 32380}"

[ -x "$kvd" ] || { echo "$kvd is not there: run make build, or set KVD_BIN" >&2; exit 1; }
mkdir -p "$folder"

cluster=
for i in "${!names[@]}"; do
  cluster+="${cluster:+,}${names[i]}=http://127.0.0.1:${peers[i]}"
done

pids=()
stopping=
stop() {
  stopping=yes
  # Members that already ended are not there to be told.
  kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap stop INT TERM HUP

for i in "${!names[@]}"; do
  name=${names[i]}
  "$kvd" --name "$name" \
    --data-dir "$folder/$name.etcd" \
    --listen-client-urls "http://127.0.0.1:${clients[i]}" \
    --advertise-client-urls "http://127.0.0.1:${clients[i]}" \
    --listen-peer-urls "http://127.0.0.1:${peers[i]}" \
    --initial-advertise-peer-urls "http://127.0.0.1:${peers[i]}" \
    --initial-cluster "$cluster" \
    --initial-cluster-token local \
    "$@" >>"$folder/$name.log" 2>&1 &
  pids+=("$!")
  echo "$name: pid $!, clients at http://127.0.0.1:${clients[i]}, log in $folder/$name.log"
done
echo "Ctrl-C stops all three."

# A signal interrupts `wait`, so each member is waited for until it is really gone.
status=0
for i in "${!pids[@]}"; do
  code=0
  wait "${pids[i]}" || code=$?
  while kill -0 "${pids[i]}" 2>/dev/null; do
    code=0
    wait "${pids[i]}" || code=$?
  done
  if [ "$code" -ne 0 ] && [ "$code" -le 128 ]; then
    echo "${names[i]} failed with exit code $code; the end of its log:" >&2
    tail -n 3 "$folder/${names[i]}.log" >&2
    status=1
  elif [ -z "$stopping" ]; then
    echo "${names[i]} ended"
  fi
done
[ -z "$stopping" ] || echo "all members stopped"
exit "$status"
