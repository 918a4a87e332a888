#!/usr/bin/env bash
# What the tests want of the system: a browser that looks at reports, Postgres for the databases, bubblewrap and
# iproute2 for machines of their own, curl for health checks. Root on a Debian gets what is missing; others are told.
set -euo pipefail

wanted=()
for pair in chromium:chromium bwrap:bubblewrap curl:curl ip:iproute2; do
  command -v "${pair%%:*}" > /dev/null || wanted+=("${pair##*:}")
done
compgen -G '/usr/lib/postgresql/*/bin/postgres' > /dev/null || wanted+=(postgresql)
((${#wanted[@]})) || exit 0
if [[ $EUID != 0 ]] || ! command -v apt-get > /dev/null; then
  echo "tests: for all of them install ${wanted[*]} (Debian's names); those that need one will fail and say so" >&2
  exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" > /dev/null
