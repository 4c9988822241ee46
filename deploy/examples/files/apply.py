#!/usr/bin/env python3
"""Applies the approved plan, and nothing else: it never looks at the desired folder again.

Everything is checked before anything is written: when the target is not as it was planned, nothing changes.
"""

import os
from pathlib import Path

import common


def checked(target, change):
    """The path and the new content of a change; fails when the file is not what it was when the plan was made."""
    path = (target / change["name"]).resolve()
    if not path.is_relative_to(target.resolve()):
        common.fail(f"{change['name']} leaves the target folder")
    current = common.sha256(path.read_bytes()) if path.is_file() else None
    if current != change["old_sha256"]:
        common.fail(f"{change['name']} has changed since the plan was made: plan again")
    content = change["new_content"]
    return path, None if content is None else common.decode(content)


def write(path, content):
    if content is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)


def main():
    payload = common.task()["payload"]
    common.act_out(payload, "apply")
    approved = Path(os.environ["SWITCHYARD_INPUT_DIR"]) / common.PLAN
    if not approved.is_file():
        common.fail("there is no approved plan among the inputs")
    plan = common.json.loads(approved.read_text(encoding="utf-8"))
    target = Path(plan["target"])
    changes = [checked(target, change) for change in plan["changes"]]
    for path, content in changes:
        write(path, content)
        print(f"{'deleted' if content is None else 'written'} {path}", flush=True)
    common.result(applied=len(changes))


main()
