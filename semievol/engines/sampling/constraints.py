"""Answers that hold to a form: JSON schemas, sets of texts and regular expressions, enforced token by token.

Owns the edge to llguidance (MIT; docs/decisions), which says what tokens may come next; no other module imports it.
Invariant: a constraint that the library does not understand in full is refused, never half enforced; what a request
does to its constraint (too complex) fails that request alone.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from semievol.engines.language_model import Prompts
from semievol.errors import DataError
from semievol.types import Constraint

EXTRA = "local"
_KEPT = 64
"""Compiled constraints; clients ask for the same few."""
_MESSAGE_CHARS = 300
_ITS_WORDS = {"NoExtensionBias": "no text fits it; does it refer to nothing but itself?"}
# White space between JSON's parts is bounded: a small model may go on with nothing else for ever.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[\x20\n]{0,16}"}


def available() -> bool:
    """Whether the library is installed."""
    try:
        import llguidance  # noqa: F401
    except ImportError:
        return False
    return True


class ConstraintMatcher:
    """One completion under a constraint. `failed`: the library gave up; the row is then of no use."""

    def __init__(self, matcher: Any, ends: frozenset[int]) -> None:
        self._matcher = matcher
        self._ends = ends
        self.failed: str | None = None

    def allow(self, logits: torch.Tensor) -> torch.Tensor:
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        if self._matcher.is_error():
            self.failed = _short(self._matcher.get_error())
            return logits
        # A model may have more logits than its tokenizer has tokens; those are none.
        allowed = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
        known = min(len(bits), len(logits))
        allowed[:known] = torch.from_numpy(bits[:known]).to(logits.device).bool()
        return logits.masked_fill(~allowed, -torch.inf)

    def accept(self, token_id: int) -> None:
        if token_id not in self._ends and self.failed is None and not self._matcher.consume_token(token_id):
            self.failed = _short(self._matcher.get_error())


class Constraints:
    """Compiles constraints for one tokenizer. Used by one thread."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._tokenizer: Any = None
        self._compiled: OrderedDict[Constraint, Any] = OrderedDict()

    def matcher(self, constraint: Constraint) -> ConstraintMatcher:
        """A matcher at its beginning.

        Raises:
            DataError: the library is missing, or does not understand the constraint.
        """
        if not available():
            raise DataError(
                f"{constraint.field}: constrained answers need a library that is not installed here: "
                f"pip install 'semievol[{EXTRA}]'"
            )
        compiled = self._compiled.pop(constraint, None) or self._compile(constraint)
        self._compiled[constraint] = compiled
        if len(self._compiled) > _KEPT:
            self._compiled.popitem(last=False)
        return ConstraintMatcher(compiled.deep_copy(), self._prompts.end_tokens)

    def _compile(self, constraint: Constraint) -> Any:
        import llguidance
        import llguidance.hf

        if self._tokenizer is None:
            ends = sorted(self._prompts.end_tokens)
            try:
                self._tokenizer = llguidance.hf.from_tokenizer(self._prompts.tokenizer, eos_token=ends)
            except Exception as error:  # the library's own kinds; some tokenizers it cannot read
                raise DataError(
                    f"{constraint.field}: constrained answers need a tokenizer that can be read token by token (a "
                    f"`tokenizer.json`), and this model's cannot be ({_short(error)}); leave it out"
                ) from error
        try:
            compiled = llguidance.LLMatcher(self._tokenizer, _grammar(constraint), log_level=0)
        except ValueError as error:
            raise DataError(f"{constraint.field}: {_short(error)}") from error
        if compiled.is_error():
            raise DataError(f"{constraint.field}: {_short(compiled.get_error())}")
        return compiled


def _grammar(constraint: Constraint) -> str:
    from llguidance import LLMatcher

    if constraint.kind == "choice":
        # Each text as a JSON string is a literal of the grammar's language.
        return str(LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, constraint.choices))))
    if constraint.kind == "regex":
        return str(LLMatcher.grammar_from_regex(constraint.text))
    return str(LLMatcher.grammar_from_json_schema(constraint.text, overrides=_JSON_OPTIONS))


def _short(error: object) -> str:
    """In a line, without the library's own state, which some of its errors end with."""
    said = " ".join(str(error).partition("<state>")[0].split())[:_MESSAGE_CHARS]
    return _ITS_WORDS.get(said, said)
