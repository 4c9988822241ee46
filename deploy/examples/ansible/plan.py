#!/usr/bin/env python3
"""Plans with `ansible-playbook --check --diff`. Leaves the playbook, its variables and the diff: apply runs these very files."""

import json
import os
import sys
from pathlib import Path

import playbook


def main():
    payload = playbook.payload()
    source, variables = payload.get("playbook"), payload.get("variables")
    if not isinstance(source, str) or not os.path.isabs(source):
        playbook.fail("payload.playbook must be an absolute path")
    if not isinstance(variables, dict):
        playbook.fail("payload.variables must be an object; write {} when there are none")
    artifacts = Path(os.environ["SWITCHYARD_ARTIFACT_DIR"])
    (artifacts / playbook.PLAYBOOK).write_bytes(Path(source).read_bytes())
    (artifacts / playbook.VARIABLES).write_text(json.dumps(variables, sort_keys=True), encoding="utf-8")
    output, changed = playbook.run(artifacts / playbook.PLAYBOOK, artifacts / playbook.VARIABLES, "--check", "--diff")
    if changed == 0:
        sys.exit(playbook.NO_CHANGES)
    (artifacts / playbook.DIFF).write_text(output, encoding="utf-8")
    playbook.result(would_change=changed)


main()
