#!/usr/bin/env bash
# Deletes the cluster and keeps its disks: create-cluster.sh with the same size goes on from them.
#
#   delete-cluster.sh        NAMESPACE (kvd) sets another
set -euo pipefail

if [ $# -ne 0 ]; then
  echo "delete-cluster.sh: '$1': it takes no arguments; NAMESPACE is an environment variable" >&2
  exit 2
fi
namespace=${NAMESPACE:-kvd}
[[ $namespace =~ ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
  { echo "delete-cluster.sh: '$namespace' is no name of a namespace" >&2; exit 2; }
command -v kubectl >/dev/null || { echo "delete-cluster.sh: kubectl is missing" >&2; exit 1; }

# The namespace stays, or its claims would go with it; so do claims, Secrets and the storage class.
for kind in statefulsets.apps deployments.apps cronjobs.batch services \
  poddisruptionbudgets.policy networkpolicies.networking.k8s.io configmaps \
  rolebindings.rbac.authorization.k8s.io roles.rbac.authorization.k8s.io serviceaccounts \
  servicemonitors.monitoring.coreos.com prometheusrules.monitoring.coreos.com \
  certificates.cert-manager.io issuers.cert-manager.io; do
  # Kinds that this API server does not know have nothing to delete.
  kubectl api-resources --no-headers --output name | grep -q -x "$kind" || continue
  kubectl delete "$kind" --namespace "$namespace" --selector app.kubernetes.io/part-of=kvd \
    --ignore-not-found
done

disks=$(kubectl get pvc --namespace "$namespace" --ignore-not-found --output name)
if [ -z "$disks" ]; then
  echo "the cluster is gone; there were no disks"
else
  echo "the cluster is gone; its disks are kept, with their data:"
  printf '  %s\n' $disks
  echo "to delete them for good: kubectl -n $namespace delete pvc --all"
fi
