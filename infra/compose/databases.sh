#!/bin/sh
# Postgres' first start alone: three databases, each owned by a role that can enter no other.
set -eu

for name in prefect mlflow journal; do
  # The password is read by psql itself: an argument could be seen in the list of processes.
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=name="$name" \
    --set=file="${FEDLLM_SECRETS_MOUNT:-/run/secrets}/postgres-$name" \
    --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
\set secret `cat :file`
CREATE ROLE :"name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'secret';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres \
  --command='REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC'
