#!/bin/sh
# Plans the configuration in the folder payload.configuration. Leaves the saved plan, which apply carries out, and its text.
set -eu
# shellcheck source=deploy/examples/terraform/common.sh
. "$(dirname "$0")/common.sh"
tf=$(program)
configuration=$(payload configuration)

"$tf" -chdir="$configuration" init -no-color
code=0
"$tf" -chdir="$configuration" plan -no-color -detailed-exitcode -out="$SWITCHYARD_ARTIFACT_DIR/plan.tfplan" || code=$?
# 0: no changes; 2: changes; anything else is a failure.
[ "$code" -eq 2 ] && "$tf" -chdir="$configuration" show -no-color "$SWITCHYARD_ARTIFACT_DIR/plan.tfplan" >"$SWITCHYARD_ARTIFACT_DIR/plan.txt"
exit "$code"
