#!/usr/bin/env python3
"""Plans: what must change in the folder `target` to make it like the folder `desired`.

Leaves two artifacts: plan.json, which apply carries out to the letter, and plan.diff, for whoever approves.
"""

import difflib
import os
import sys
from pathlib import Path

import common


def lines(content):
    return content.decode("utf-8", errors="replace").splitlines(keepends=True)


def diff(name, old, new):
    before, after = f"a/{name}" if old is not None else "/dev/null", f"b/{name}" if new is not None else "/dev/null"
    return "".join(difflib.unified_diff(lines(old or b""), lines(new or b""), before, after))


def main():
    payload = common.task()["payload"]
    common.act_out(payload, "plan")
    desired, target = common.folder(payload, "desired"), common.folder(payload, "target")
    if not desired.is_dir():
        common.fail(f"the desired folder {desired} does not exist")
    wanted, present = common.files(desired), common.files(target)
    changes, text = [], ""
    for name in sorted(wanted.keys() | present.keys()):
        old, new = present.get(name), wanted.get(name)
        if old == new:
            continue
        print(f"{'create' if old is None else 'delete' if new is None else 'change'} {name}", flush=True)
        changes.append({
            "name": name,
            "old_sha256": None if old is None else common.sha256(old),
            "new_content": None if new is None else common.encode(new),
        })
        text += diff(name, old, new)
    if not changes:
        print("no changes", flush=True)
        sys.exit(common.NO_CHANGES)
    artifacts = Path(os.environ["SWITCHYARD_ARTIFACT_DIR"])
    plan = {"target": str(target), "changes": changes}
    (artifacts / common.PLAN).write_text(common.json.dumps(plan, indent=1), encoding="utf-8")
    (artifacts / common.DIFF).write_text(text, encoding="utf-8")
    common.result(changes=len(changes))


main()
