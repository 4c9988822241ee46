"""What plan and apply share: the contract between worker-agent and a program, and the call of ansible-playbook."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

NO_CHANGES = 2
PLAYBOOK = "playbook.yml"
VARIABLES = "variables.json"
DIFF = "plan.diff"


def payload():
    return json.loads(Path(os.environ["SWITCHYARD_TASK_FILE"]).read_text(encoding="utf-8"))["payload"]


def fail(message):
    print(message, file=sys.stderr, flush=True)
    sys.exit(1)


def run(playbook, variables, *options):
    """Runs the playbook on this host, its output line by line; gives the output and the number of changed tasks."""
    command = ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", *options]
    command += ["--extra-vars", f"@{variables}", str(playbook)]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        fail("ansible-playbook is not installed: apt-get install ansible-core")
    output = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        output += line
    if process.wait() != 0:
        fail(f"ansible-playbook failed with exit code {process.returncode}")
    recap = re.findall(r"^\S+\s*: ok=\d+\s+changed=(\d+)", output, flags=re.MULTILINE)
    if not recap:
        fail("ansible-playbook printed no recap: nothing is known of what it did")
    return output, sum(int(changed) for changed in recap)


def result(**fields):
    Path(os.environ["SWITCHYARD_RESULT_FILE"]).write_text(json.dumps(fields), encoding="utf-8")
