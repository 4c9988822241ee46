# shellcheck shell=sh
# Sourced by plan.sh and apply.sh: which program there is, and a value of the payload.

program() {
    command -v tofu || command -v terraform || {
        echo "neither tofu nor terraform is installed" >&2
        exit 1
    }
}

# payload NAME: a text of the payload; fails when it is missing, because there is no safe default.
payload() {
    python3 -c '
import json, os, sys
value = json.load(open(os.environ["SWITCHYARD_TASK_FILE"]))["payload"].get(sys.argv[1])
if not isinstance(value, str) or not value:
    sys.exit(f"payload.{sys.argv[1]} must be a text")
print(value)' "$1"
}
