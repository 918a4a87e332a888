#!/bin/sh
# One of Postgres' three databases, to or from a file, by the role that owns it; run inside the service postgres:
#
#   database.sh save NAME > NAME.dump     as pg_dump writes it
#   database.sh load NAME < NAME.dump     into an empty one, whole or not at all
#   database.sh sql NAME < FILE           statements, whole or not at all
set -eu

name=${2:?"say which: database.sh save|load|sql prefect|mlflow|journal"}
PGPASSWORD=$(cat "/run/secrets/postgres-$name")
export PGPASSWORD
url="postgresql://$name@postgres:5432/$name?sslmode=verify-full&sslrootcert=/run/tls/ca.crt"
case $1 in
  save) exec pg_dump --format=custom --no-owner --no-privileges --dbname="$url" ;;
  load) exec pg_restore --single-transaction --exit-on-error --no-owner --no-privileges --dbname="$url" ;;
  sql) exec psql --no-psqlrc --quiet --single-transaction --set=ON_ERROR_STOP=1 --dbname="$url" ;;
  *)
    echo "database.sh: save, load or sql, not $1" >&2
    exit 2
    ;;
esac
