#!/bin/sh
# Restores the newest snapshot into an empty directory, starts a member on it and reads.
set -eu
newest=$(ls -1r /backup | grep -m1 '^kvd-.*\.db$') || { echo "there is no backup" >&2; exit 1; }
echo "restoring $newest"
url=http://127.0.0.1:12379
peer=http://127.0.0.1:12380

kvutl snapshot restore "/backup/$newest" --data-dir /drill/data --name drill \
  --initial-cluster "drill=$peer" --initial-advertise-peer-urls "$peer"

kvd --name drill --data-dir /drill/data --listen-client-urls "$url" --advertise-client-urls "$url" \
  --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "drill=$peer" \
  >/drill/log 2>&1 &
member=$!

tries=0
until kvctl --endpoints "$url" endpoint health >/dev/null 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" -gt 60 ] || ! kill -0 "$member"; then
    cat /drill/log >&2
    echo "the restored member does not serve" >&2
    exit 1
  fi
  sleep 1
done
kvctl --endpoints "$url" endpoint status -w table
kvctl --endpoints "$url" endpoint hashkv
keys=$(kvctl --endpoints "$url" get --prefix '' --count-only -w fields | sed -n 's/^"Count" : //p')
kill "$member"
wait "$member"
echo "restored $newest: $keys keys"
[ "${keys:-0}" -ge "${MIN_KEYS:-0}" ] || { echo "fewer than ${MIN_KEYS:-0} keys" >&2; exit 1; }
