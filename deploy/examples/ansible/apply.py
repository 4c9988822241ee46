#!/usr/bin/env python3
"""Runs the approved playbook with the approved variables, from the inputs; whatever was edited since the plan plays no part."""

import os
from pathlib import Path

import playbook


def main():
    inputs = Path(os.environ["SWITCHYARD_INPUT_DIR"])
    approved = [inputs / playbook.PLAYBOOK, inputs / playbook.VARIABLES]
    if not all(path.is_file() for path in approved):
        playbook.fail("the approved playbook is not among the inputs")
    _, changed = playbook.run(*approved)
    playbook.result(changed=changed)


main()
