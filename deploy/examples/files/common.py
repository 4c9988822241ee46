"""What plan and apply share: the contract between worker-agent and a program, and the form of a plan."""

import base64
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

# Exit codes of these programs; agent.toml maps them to outcomes.
NO_CHANGES = 2
FAILED = 1

PLAN = "plan.json"
DIFF = "plan.diff"


def task():
    """The task file: task_id, workspace_id, kind, step, attempt, agent_id, parameters, payload, inputs."""
    return json.loads(Path(os.environ["SWITCHYARD_TASK_FILE"]).read_text(encoding="utf-8"))


def fail(message):
    print(message, file=sys.stderr, flush=True)
    sys.exit(FAILED)


def folder(payload, name):
    """A folder that the payload must name: never a default, or a missing field would mean "delete everything" (incident 65)."""
    value = payload.get(name)
    if not isinstance(value, str) or not os.path.isabs(value):
        fail(f"payload.{name} must be an absolute path")
    return Path(value)


def files(root):
    """Every regular file below root, by its path relative to it."""
    if not root.exists():
        return {}
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def encode(content):
    return base64.b64encode(content).decode("ascii")


def decode(text):
    return base64.b64decode(text, validate=True)


def result(**fields):
    Path(os.environ["SWITCHYARD_RESULT_FILE"]).write_text(json.dumps(fields), encoding="utf-8")


def act_out(payload, step):
    """The demo asks for trouble through the payload: {"trouble": {"apply": "fail"}}. Not something for production handlers."""
    wish = payload.get("trouble", {}).get(step)
    if wish is None:
        return
    if wish == "fail":
        fail(f"{step}: the provider answered 503 Service Unavailable (this is the trouble that the payload asked for)")
    if wish == "crash":
        print(f"{step}: about to crash, as the payload asked for", flush=True)
        os.kill(os.getpid(), signal.SIGABRT)
    if wish == "hang":
        print(f"{step}: hanging, as the payload asked for", flush=True)
        time.sleep(3600)
    if isinstance(wish, (int, float)):
        print(f"{step}: working for {wish} s", flush=True)
        time.sleep(wish)
