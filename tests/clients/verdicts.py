"""What two engines' outcomes of one call say about each other.

Invariant: alike are answers of one shape, and errors that programs cannot tell apart: class, status, code, type, and
the field at fault (of `messages[0].role`: `messages`; how deep a server looks is its own). Else the generator in this
process must have refused the very field that the call says; all the rest differs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.clients.calls import Call
from tests.clients.shapes import differences

_SAME = ("class", "status", "code", "type")


class Kind(StrEnum):
    """How two outcomes compare."""

    ALIKE = "answered alike"
    REFUSED_ALIKE = "refused alike"
    REFUSED_HERE = "refused by the generator in this process alone"
    DIFFERS = "different"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One call's; `reasons` where it differs."""

    kind: Kind
    reasons: list[str] = field(default_factory=list)


def verdict(call: Call, here: Mapping[str, Any], there: Mapping[str, Any]) -> Verdict:
    """Compare what the generator in this process (`here`) and vLLM (`there`) did."""
    faults = [
        f"{name}: {each['message']}\n{each['trace']}"
        for name, each in (("embedded", here), ("vLLM", there))
        if each["kind"] == "fault"
    ]
    if faults:
        return Verdict(Kind.DIFFERS, faults)
    if call.refused is not None:
        return _refused_here(call.refused, here, there)
    if here["kind"] != there["kind"]:
        return Verdict(Kind.DIFFERS, [f"embedded: {said(here)}", f"vLLM: {said(there)}"])
    if here["kind"] == "answer":
        lines = differences(here["shape"], there["shape"])
        return Verdict(Kind.DIFFERS, lines) if lines else Verdict(Kind.ALIKE)
    unlike = [f"{name}: {here[name]} / {there[name]}" for name in _SAME if here[name] != there[name]]
    if _field(here) != _field(there):
        unlike.append(f"param: {here['param']} / {there['param']}")
    if unlike:
        return Verdict(Kind.DIFFERS, [*unlike, f"embedded: {here['message']}", f"vLLM: {there['message']}"])
    return Verdict(Kind.REFUSED_ALIKE)


def _field(outcome: Mapping[str, Any]) -> str:
    return re.split(r"[.\[]", outcome["param"] or "")[0]


def said(outcome: Mapping[str, Any]) -> str:
    """An outcome in a few words."""
    if outcome["kind"] == "answer":
        return "answers"
    where = _field(outcome) or outcome["code"]
    return " ".join(str(each) for each in (outcome["status"] or outcome["class"], where) if each)


def _refused_here(param: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> Verdict:
    reasons = []
    if here["kind"] != "error" or here["param"] != param or here["status"] not in (400, None):
        reasons.append(f"embedded: {said(here)}, not a refusal of {param}")
    if there["kind"] != "answer":
        reasons.append(f"vLLM: {said(there)}; it answered when this call was written")
    return Verdict(Kind.DIFFERS, reasons) if reasons else Verdict(Kind.REFUSED_HERE)
