#!/usr/bin/env bash
# Makes the three Secrets of the component tls without cert-manager: one authority, and certificates
# for server, peers and clients.
#
#   make-certs.sh DIRECTORY [NAMESPACE]      then: kubectl apply -f DIRECTORY/secrets.yaml
#
# Run again on the same directory, it keeps the authority and renews the certificates. Keep ca.key
# somewhere safe: it is not in the Secrets. DAYS (365) sets how long certificates are valid.
set -euo pipefail

usage() {
  echo "usage: make-certs.sh DIRECTORY [NAMESPACE]" >&2
  exit 2
}

[ $# -ge 1 ] && [ $# -le 2 ] && [ -n "$1" ] || usage
command -v openssl >/dev/null || { echo "make-certs.sh: openssl is missing" >&2; exit 1; }
directory=$1
namespace=${2:-kvd}
days=${DAYS:-365}
[[ $namespace =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] ||
  { echo "make-certs.sh: '$namespace' is no name of a namespace" >&2; exit 2; }
[[ $days =~ ^[1-9][0-9]*$ ]] ||
  { echo "make-certs.sh: DAYS is a number of days, not '$days'" >&2; exit 2; }

umask 077
mkdir -p "$directory"
cd "$directory"

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

if [ ! -e ca.key ]; then
  new_key ca.key
  openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=kvd-ca" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -out ca.crt
fi

# issue NAME COMMON-NAME USAGES [SUBJECT-ALTERNATIVE-NAMES]
issue() {
  new_key "$1.key"
  {
    echo "basicConstraints=critical,CA:FALSE"
    echo "keyUsage=critical,digitalSignature"
    echo "extendedKeyUsage=$3"
    if [ -n "${4:-}" ]; then echo "subjectAltName=$4"; fi
  } >"$1.ext"
  openssl req -new -key "$1.key" -subj "/CN=$2" |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 -days "$days" \
      -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.ext"
}

# kvd takes a wildcard only with two labels after it: the short names that members have for one
# another stand there one by one, for seven members.
members=DNS:*.etcd.$namespace.svc,DNS:*.etcd.$namespace.svc.cluster.local
for number in 0 1 2 3 4 5 6; do members=$members,DNS:etcd-$number.etcd; done
client=DNS:etcd-client,DNS:etcd-client.$namespace.svc,DNS:etcd-client.$namespace.svc.cluster.local
issue etcd-server etcd-server serverAuth,clientAuth \
  "$members,DNS:etcd,DNS:etcd.$namespace.svc,$client,DNS:localhost,IP:127.0.0.1"
issue etcd-peer etcd-peer serverAuth,clientAuth "$members,DNS:etcd"
issue etcd-client root clientAuth

one_line() { base64 <"$1" | tr -d '\n'; }
for name in etcd-server etcd-peer etcd-client; do
  cat <<YAML
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata:
  name: $name-tls
  namespace: $namespace
data:
  ca.crt: $(one_line ca.crt)
  tls.crt: $(one_line "$name.crt")
  tls.key: $(one_line "$name.key")
YAML
done >secrets.yaml
echo "$directory/secrets.yaml: kubectl apply -f it, before the variant tls-script"
