"""What dashboards and rules ask, as questions that are to have an answer at some time of a run.

An alert compares: it says nothing while all is well. So its comparisons with a number are taken off, and what is left
is to have data: each side of `or` for itself, and what stands behind `unless`, which takes away, for itself too.
PromQL is read as far as that needs: set operators, comparisons, brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
_TOKEN = re.compile(
    r"""\s+ | \{(?:[^}"]|"(?:[^"\\]|\\.)*")*\} | \[[^\]]*\] | "(?:[^"\\]|\\.)*" | [A-Za-z_:][\w:]*
      | \d[\w.]* | == | != | <= | >= | [-+*/%^<>(),@]""",
    re.VERBOSE,
)
_COMPARES = frozenset({"==", "!=", "<=", ">=", "<", ">"})
_SETS = frozenset({"and", "or", "unless"})
_NUMBER = re.compile(r"[\d.\s*/+()-]+")


class Question(NamedTuple):
    """One expression, and where it is asked."""

    where: str
    expr: str


def of_dashboards(rate_interval: str) -> list[Question]:
    """Every query of every panel, and every annotation, with `All` for its variables."""

    def filled(expr: str) -> str:
        return expr.replace("$__rate_interval", rate_interval).replace("$workload", ".+").replace("$instance", ".+")

    found = []
    for file in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(file.read_text("utf-8"))
        found += [
            Question(f"{board['title']}: {panel['title']}", filled(target["expr"]))
            for panel in board["panels"]
            for target in panel.get("targets", [])
        ]
        found += [
            Question(f"{board['title']}: marks of {each['name']}", filled(each["expr"]))
            for each in board["annotations"]["list"]
        ]
    return found


def of_rules() -> list[Question]:
    """Every recorded series by its name and by its expression, and every alert without its bounds."""
    found = []
    for file in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml")):
        for rule in (each for group in yaml.safe_load(file.read_text("utf-8"))["groups"] for each in group["rules"]):
            if "record" in rule:
                found += [Question(rule["record"], rule["record"]), Question(rule["record"], rule["expr"])]
            else:
                found += [Question(rule["alert"], expr) for expr in without_bounds(rule["expr"])]
    return found


def without_bounds(expr: str) -> list[str]:
    """The expression without its comparisons with numbers, by the sides of `or` and `unless`.

    Raises:
        ValueError: it is not read here: something else than a number is compared with.
    """
    tokens = _TOKEN.findall(expr)
    if "".join(tokens) != expr:
        raise ValueError(f"not read: {expr}")
    return [re.sub(r"\s+", " ", each).strip() for each in _sides(tokens)]


def _sides(tokens: list[str]) -> list[str]:
    """Of the tokens between two brackets, or of all."""
    operands, operators = _operands(tokens)
    alone: list[str] = []
    joined = [""]
    for operator, operand in zip(["", *operators], operands, strict=True):
        word = operator.split()[0] if operator else ""
        sides = [side.strip() for side in _without_comparison(operand)]
        if word == "unless":
            alone += sides
        elif word == "or":
            alone += joined
            joined = sides
        else:
            joined = [f"{left} {operator} {right}".strip() for left in joined for right in sides]
    return [*joined, *alone]


def _operands(tokens: list[str]) -> tuple[list[list[str]], list[str]]:
    """What stands between the set operators outside brackets, and these with their `on (...)` or `ignoring (...)`."""
    operands: list[list[str]] = [[]]
    operators: list[str] = []
    place = 0
    while place < len(tokens):
        if tokens[place] in _SETS:
            end = place + 1
            after = [n for n in range(end, len(tokens)) if tokens[n].strip()][:1]
            if after and tokens[after[0]] in ("on", "ignoring"):
                end = _closing(tokens, tokens.index("(", after[0])) + 1
            operators.append("".join(tokens[place:end]))
            operands.append([])
            place = end
            continue
        end = _closing(tokens, place) + 1 if tokens[place] == "(" else place + 1
        operands[-1] += tokens[place:end]
        place = end
    return operands, operators


def _without_comparison(operand: list[str]) -> list[str]:
    """An operand by the sides of what its brackets hold."""
    sides = [""]
    place = 0
    while place < len(operand):
        token = operand[place]
        if token in _COMPARES:
            bound = "".join(operand[place + 1 :])
            if not _NUMBER.fullmatch(bound):
                raise ValueError(f"compared with something else than a number: {bound}")
            break
        if token == "(":
            end = _closing(operand, place)
            sides = [f"{left}({inner})" for left in sides for inner in _inside(operand[place + 1 : end])]
            place = end + 1
            continue
        sides = [left + token for left in sides]
        place += 1
    return sides


def _inside(tokens: list[str]) -> Iterator[str]:
    """The arguments of a call, or one expression in brackets; only one of several may have sides."""
    arguments: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token == "(") - (token == ")")
        if token == "," and depth == 0:
            arguments.append([])
        else:
            arguments[-1].append(token)
    if len(arguments) > 1:
        yield ", ".join(_one(each) for each in arguments)
    else:
        yield from _sides(arguments[0])


def _one(argument: list[str]) -> str:
    (only,) = _sides(argument)
    return only


def _closing(tokens: list[str], opening: int) -> int:
    depth = 0
    for place in range(opening, len(tokens)):
        depth += (tokens[place] == "(") - (tokens[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"a bracket is not closed: {''.join(tokens)}")
