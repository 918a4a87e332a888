#!/bin/sh
# A certificate and a key of its own for each server of the compose stack, by the authority of `fedllm ca`:
# `certificates.sh AUTHORITY FOLDER DOOR_HOST [DATABASE_HOST [STORE_HOST]]`. Sites come in by DOOR_HOST; the other
# two are for servers that run elsewhere. Run again it makes anew those that end within 30 days, and keeps the others.
set -eu

usage="say which: certificates.sh AUTHORITY FOLDER DOOR_HOST [DATABASE_HOST [STORE_HOST]]"
authority=$(cd "${1:?"$usage"}" && pwd)
folder=${2:?"$usage"}
door=${3:?"$usage"}
umask 077
mkdir -p "$folder"
drafts=$(mktemp -d "$folder/.drafts.XXXXXX")
trap 'rm -rf "$drafts"' EXIT

issue() { # a server, and the names by which its clients know it; localhost is added
  name=$1
  kept="$folder/$name"
  draft="$drafts/$name/ca"
  mkdir -p "$kept" "$draft"
  ln -s "$authority/ca.key" "$authority/ca.crt" "$draft/"
  for file in server.key server.crt; do
    if [ -e "$kept/$file" ]; then cp -p "$kept/$file" "$draft/"; fi
  done
  hosts=
  for host in "$@"; do hosts="$hosts --host $host"; done
  # shellcheck disable=SC2086 # one option a name
  FEDLLM_HOME="$drafts/$name" fedllm ca $hosts > /dev/null
  cmp -s "$draft/server.crt" "$kept/server.crt" && return
  mv "$draft/server.key" "$draft/server.crt" "$kept/"
  echo "made  $kept/server.crt"
}

issue minio ${5:+"$5"}
issue door "$door"
issue postgres ${4:+"$4"}
issue prefect prefect-server # by its other name in Kubernetes
issue mlflow
