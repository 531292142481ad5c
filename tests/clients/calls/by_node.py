"""OpenAI's and langchain's libraries for Node.js: `by_node.mjs` makes the calls, one run of node each."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.calls import PATIENCE_S, Gateway, call

NAME = "openai for Node.js"
LANGCHAIN = "langchain for Node.js"
SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGES = Path(__file__).resolve().parents[3] / ".cache" / "clients-venv" / "npm"


class NodeError(Exception):
    """What the library threw."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(f"{told['class']}: {told['message']}")
        self.status = told["status"]
        self.body = {"error": {name: told[name] for name in ("message", "code", "type", "param")}}


@call(NAME, "chat")
def chat(at: Gateway) -> object:
    return _run(at, "chat")


@call(NAME, "chat, stream")
def stream(at: Gateway) -> object:
    return _run(at, "stream")


@call(NAME, "chat, helper for streams")
def helper(at: Gateway) -> object:
    return _run(at, "helper")


@call(NAME, "chat, parse by a zod schema")
def parsed(at: Gateway) -> object:
    return _run(at, "parsed")


@call(NAME, "chat, tools", refused="tools")
def tools(at: Gateway) -> object:
    return _run(at, "tools")


@call(NAME, "chat, unknown model")
def unknown_model(at: Gateway) -> object:
    return _run(at, "unknown_model")


@call(NAME, "completions")
def completion(at: Gateway) -> object:
    return _run(at, "completion")


@call(NAME, "responses")
def responses(at: Gateway) -> object:
    return _run(at, "responses")


@call(NAME, "models, list")
def models(at: Gateway) -> object:
    return _run(at, "models")


@call(LANGCHAIN, "invoke")
def invoke(at: Gateway) -> object:
    return _run(at, "invoke")


@call(LANGCHAIN, "stream")
def langchain_stream(at: Gateway) -> object:
    return _run(at, "langchain_stream")


@call(LANGCHAIN, "withStructuredOutput")
def structured(at: Gateway) -> object:
    return _run(at, "structured")


def _run(at: Gateway, name: str) -> object:
    # The script lies beside its packages: that is where node looks for them.
    script = PACKAGES / SCRIPT.name
    shutil.copyfile(SCRIPT, script)
    command = ["node", str(script), name, at.url, at.token, at.model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    told = json.loads(done.stdout.splitlines()[-1])
    if "error" in told:
        raise NodeError(told["error"])
    return told["answer"]
