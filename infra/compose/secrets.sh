#!/bin/sh
# Draw the secrets of the compose stack into a folder: `secrets.sh FOLDER`. What is there already is kept.
set -eu

folder=${1:?"say where: secrets.sh FOLDER"}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

draw() {
  path="$folder/$1"
  [ -s "$path" ] && return
  # 30 bytes from the system's generator, as 40 characters that need no quoting in a URL.
  drawn=$(head -c 30 /dev/urandom | base64 | tr '+/' '-_')
  printf '%s%s' "${2:-}" "$drawn" > "$path.new"
  mv "$path.new" "$path"
  echo "drawn  $path"
}

for name in postgres postgres-prefect postgres-mlflow postgres-journal; do draw "$name"; done
for name in minio-root store-coordinator store-registrar store-mlflow; do draw "$name"; done
for name in mlflow-admin mlflow-forms; do draw "$name"; done
draw prefect-auth fedllm: # user and password in one, as Prefect has it
