#!/bin/sh
# Makes this pod's config file of the templates in the ConfigMap.
#
# With data, a member knows who it is, and the settings of a first start do not count. Without, it
# either begins the cluster together with the other first CLUSTER_SIZE members, or it joins one that
# is there: as `kvctl member add` announced it, for a new pod or for one whose disk was lost. With
# CLUSTER_STATE=auto, which the component autopilot sets, kvd finds that out itself.
set -eu

size=${CLUSTER_SIZE:?how many members begin the cluster}
scheme=${SCHEME:-http}
set_name=${HOSTNAME%-*}
ordinal=${HOSTNAME##*-}
own=$scheme://$HOSTNAME.etcd:2380

state=${CLUSTER_STATE:-new}
members=
number=0
while [ "$number" -lt "$size" ]; do
  members="$members${members:+,}$set_name-$number=$scheme://$set_name-$number.etcd:2380"
  number=$((number + 1))
done

if [ "$state" = auto ]; then
  members=$HOSTNAME=$own
elif [ ! -e /var/run/etcd/default.etcd/member ]; then
  # "ID, status, name, peer URLs, client URLs, learner"; only who has not started has no name.
  list=$(kvctl --endpoints "$scheme://etcd-client:2379" --dial-timeout 1s --command-timeout 3s \
    member list 2>/dev/null | tr -d ' ') || list=
  if printf '%s\n' "$list" | grep -q ",unstarted,.*$own,"; then
    echo "$HOSTNAME was announced and joins the cluster that is there"
    state=existing
    urls=$(printf '%s\n' "$list" | grep -o "$scheme://[^,]*:2380")
    members=
    for url in $urls; do
      name=${url#*://}
      members="$members${members:+,}${name%%.*}=$url"
    done
  elif [ "$ordinal" -ge "$size" ]; then
    echo "$HOSTNAME is not one of the first $size members: kvctl member add $HOSTNAME" \
      "--peer-urls=$own" >&2
    exit 1
  fi
fi

cat /etc/kvd/*.yaml | sed \
  -e "s|@NAME@|$HOSTNAME|g" \
  -e "s|@SCHEME@|$scheme|g" \
  -e "s|\"@CLUSTER_SIZE@\"|$size|g" \
  -e "s|@INITIAL_CLUSTER_STATE@|$state|g" \
  -e "s|@INITIAL_CLUSTER@|$members|g" \
  >/run/kvd/kvd.yaml
