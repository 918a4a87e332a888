#!/bin/sh
# Secrets are files here, and variables where Prefect, MLflow, boto3 and libpq look for them: the file that
# NAME_FILE names becomes NAME, in the environment of the program that follows and nowhere else.
set -eu

for name in \
  AWS_SECRET_ACCESS_KEY \
  FEDLLM_COORDINATOR_SECRET FEDLLM_MLFLOW_SECRET FEDLLM_REGISTRAR_SECRET FEDLLM_SECRET_KEY \
  MINIO_ROOT_PASSWORD \
  MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_TRACKING_PASSWORD \
  PGPASSWORD \
  PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING PREFECT_SERVER_DATABASE_PASSWORD
do
  eval "file=\${${name}_FILE:-}"
  [ -n "$file" ] || continue
  value=$(cat "$file")
  if [ -z "$value" ]; then
    echo "entry: $file is empty" >&2
    exit 1
  fi
  export "$name=$value"
  unset "${name}_FILE"
done
exec "$@"
