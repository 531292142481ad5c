"""Makes calls to one gateway, in their client's environment, and writes what came of each as a line of JSON.

`python -m tests.clients.asking` has neither the project nor pytest beside it, and reads the names of the calls from its
standard input, a line each. Invariant: what a library raises is an outcome like another; only a broken promise
(AssertionError) or a mistake of the call itself is a fault.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
import warnings
from typing import Any

from tests.clients.calls import Call, Gateway, all_calls
from tests.clients.shapes import shape_of

_MISTAKES = (
    *(AssertionError, AttributeError, ImportError, IndexError, KeyError, NameError, TypeError),
    json.JSONDecodeError,
)


def outcome(call: Call, gateway: Gateway) -> dict[str, Any]:
    """What came of a call: an answer with its shape, an error as its library raised it, or a fault."""
    begun = time.monotonic()
    try:
        answer = call.make(gateway)
        found: dict[str, Any] = {"kind": "answer", "shape": shape_of(answer)}
    except _MISTAKES as fault:
        found = {
            "kind": "fault",
            "message": f"{type(fault).__name__}: {fault}",
            "trace": traceback.format_exc()[-2000:],
        }
    except Exception as error:
        found = {"kind": "error", **described(error)}
    return {"name": call.name, "took_s": round(time.monotonic() - begun, 2), **found}


def described(error: BaseException) -> dict[str, Any]:
    """An error as programs see it; libraries that wrap another's error are looked into for the server's body."""
    told: BaseException | None = error
    body: dict[str, Any] = {}
    while told is not None and not body:
        body = body_of(told)
        told = told.__cause__ or told.__context__
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    return {
        "class": type(error).__name__,
        "status": status if isinstance(status, int) else None,
        "code": body.get("code"),
        "type": body.get("type"),
        "param": body.get("param"),
        "message": str(body.get("message") or error)[:400],
    }


def body_of(error: BaseException) -> dict[str, Any]:
    """The members of the server's error that an exception carries."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body.get("error", body)
        return inner if isinstance(inner, dict) else {}
    return {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # libraries' own
    gateway = Gateway(options.url, options.token, options.model)
    wanted = set(sys.stdin.read().splitlines())
    for call in all_calls():
        if call.name in wanted:
            sys.stdout.write(json.dumps(outcome(call, gateway)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
