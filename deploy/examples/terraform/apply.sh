#!/bin/sh
# Applies the approved plan file, and nothing else. Terraform itself refuses a plan whose state has moved on.
set -eu
# shellcheck source=deploy/examples/terraform/common.sh
. "$(dirname "$0")/common.sh"
tf=$(program)
configuration=$(payload configuration)

[ -f "$SWITCHYARD_INPUT_DIR/plan.tfplan" ] || {
    echo "there is no approved plan among the inputs" >&2
    exit 1
}
"$tf" -chdir="$configuration" init -no-color
exec "$tf" -chdir="$configuration" apply -no-color "$SWITCHYARD_INPUT_DIR/plan.tfplan"
