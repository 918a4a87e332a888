#!/bin/sh
# uv, which installs in a quarter of pip's time, with the package indexes that pip is configured for.
#
#   uv.sh BIN ARGUMENT…    BIN holds pip and uv; what uv's own variables say comes first
set -eu
bin=$1
shift

# What pip's files and its environment say of a setting; nothing where they are silent.
pips() {
  "$bin/pip" config list | sed -n "s/^[a-z:]*\.$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g' | tr '\n' ' '
}

index=$(pips index-url)
more=$(pips extra-index-url)
folders=$(pips find-links)
certificates=$(pips cert)
[ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${index% }}"
[ -z "$folders" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$(echo "${folders% }" | tr ' ' ',')}"
if [ -n "$more" ]; then
  export UV_INDEX="${UV_INDEX:-$more}"
  # As pip has it: each index that is configured is trusted, and the release may come from any of them.
  export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
fi
[ -z "$certificates" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-${certificates%% *}}"
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"  # as pip has it
exec "$bin/uv" "$@"
