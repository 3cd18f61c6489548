#!/usr/bin/env bash
# Creates a cluster of SIZE members, with any of the components in components/.
#
#   create-cluster.sh [--print] SIZE [COMPONENT…]        create-cluster.sh 3 storage-ebs monitoring
#
# Disks that an earlier cluster left are used again, with their data. --print writes the manifests
# to standard output and applies nothing. NAMESPACE (kvd) and IMAGE set others.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

refuse() {
  echo "create-cluster.sh: $1" >&2
  echo "usage: create-cluster.sh [--print] SIZE [COMPONENT…]   SIZE is 1, 3, 5 or 7" >&2
  exit 2
}

print=
if [ "${1:-}" = --print ]; then
  print=yes
  shift
fi
[ $# -ge 1 ] && [ -n "$1" ] || refuse "how many members? SIZE is missing"
size=$1
shift
[[ $size =~ ^[0-9]+$ ]] || refuse "'$size' is no number of members"
[[ $size =~ ^[0-9]{1,4}$ ]] || refuse "$size members are too many: 7 at most"
size=$((10#$size))
[ "$size" -ge 1 ] || refuse "a cluster has one member at least"
[ "$size" -le 7 ] || refuse "$size members are too many: each write waits for a majority, 7 at most"
[ $((size % 2)) -eq 1 ] ||
  refuse "$size is even: it survives no more losses than $((size - 1)) members do, and costs more"
namespace=${NAMESPACE:-kvd}
[[ $namespace =~ ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
  refuse "'$namespace' is no name of a namespace"
for component in "$@"; do
  [[ $component =~ ^[a-z0-9-]+$ ]] && [ -f "$here/components/$component/kustomization.yaml" ] ||
    refuse "there is no component '$component': $(cd "$here/components" && echo *)"
done

folder=$here/.cluster
mkdir -p "$folder"
{
  cat <<YAML
# Written by create-cluster.sh for $size members in $namespace.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: $namespace
resources:
  - ../base
YAML
  if [ $# -gt 0 ]; then
    echo "components:"
    printf '  - ../components/%s\n' "$@"
  fi
  cat <<YAML
replicas:
  - name: etcd
    count: $size
configMapGenerator:
  - name: etcd-cluster
    behavior: merge
    literals:
      - size=$size
YAML
  if [ -n "${IMAGE:-}" ]; then
    # The last colon after the last slash parts the tag from the name.
    name=$IMAGE
    tag=latest
    if [[ ${IMAGE##*/} == *:* ]]; then
      name=${IMAGE%:*}
      tag=${IMAGE##*:}
    fi
    printf 'images:\n  - name: ghcr.io/kvd-io/kvd\n    newName: %s\n    newTag: "%s"\n' "$name" "$tag"
  fi
} >"$folder/kustomization.yaml"

if [ -n "$print" ]; then
  exec ${KUSTOMIZE:-kubectl kustomize} "$folder"
fi
if ! command -v kubectl >/dev/null; then
  echo "create-cluster.sh: kubectl is missing" >&2
  exit 1
fi

# Disks of an earlier cluster: its members know how many they are, and go on with that.
disks=$(kubectl get pvc --namespace "$namespace" --ignore-not-found --output name |
  grep -c -E '^persistentvolumeclaim/data-etcd-[0-9]+$' || true)
running=$(kubectl get statefulset etcd --namespace "$namespace" --ignore-not-found \
  --output 'jsonpath={.spec.replicas}')
if [ -n "$running" ] && [ "$running" != "$size" ]; then
  echo "create-cluster.sh: a cluster of $running members runs in $namespace. To change its size" \
    "see docs/kubernetes.md, 'Grow and shrink'" >&2
  exit 1
fi
if [ "$disks" -gt 0 ] && [ "$disks" -ne "$size" ]; then
  echo "create-cluster.sh: $namespace has the disks of a cluster of $disks. Create that size and" \
    "grow or shrink it then, or delete the disks: kubectl -n $namespace delete pvc data-etcd-N" >&2
  exit 1
fi
if [ "$disks" -gt 0 ]; then
  echo "using the $disks disks that exist, with their data"
fi

kubectl apply --server-side --kustomize "$folder"
kubectl rollout status statefulset/etcd --namespace "$namespace" --timeout "${TIMEOUT:-10m}"
echo "$size members are ready in $namespace: kubectl -n $namespace exec etcd-0 -- kvctl member list"
