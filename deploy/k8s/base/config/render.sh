#!/bin/sh
# Makes this pod's config file of the templates in the ConfigMap.
#
# The first CLUSTER_SIZE members begin the cluster together. A pod with a higher number joins one
# that exists: `kvctl member add` must have announced it.
set -eu

size=${CLUSTER_SIZE:?how many members begin the cluster}
set_name=${HOSTNAME%-*}
ordinal=${HOSTNAME##*-}

state=new
last=$((size - 1))
if [ "$ordinal" -ge "$size" ]; then
  state=existing
  last=$ordinal
fi

members=
number=0
while [ "$number" -le "$last" ]; do
  members="$members${members:+,}$set_name-$number=${SCHEME:-http}://$set_name-$number.etcd:2380"
  number=$((number + 1))
done

cat /etc/kvd/*.yaml | sed \
  -e "s|@NAME@|$HOSTNAME|g" \
  -e "s|@SCHEME@|${SCHEME:-http}|g" \
  -e "s|@INITIAL_CLUSTER_STATE@|$state|g" \
  -e "s|@INITIAL_CLUSTER@|$members|g" \
  >/run/kvd/kvd.yaml
