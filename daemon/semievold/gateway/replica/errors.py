"""A replica's error in this gateway's words, so that programs see one vocabulary whatever answers.

Owns the reading of error bodies (OpenAI's shape and FastAPI's), no I/O. Invariants: `code` is a word of this gateway's,
never a class of the server's; texts hold no secret, address or path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from semievold.gateway.call import EMBEDDINGS, LIMIT_NAMES, TOO_LONG, presentable, prompt_field

_TOO_LONG = re.compile(r"maximum context length|max_model_len|longer than the maximum", re.I)
_UNSUPPORTED = re.compile(r"not a multimodal model|not supported|only supported|does not support", re.I)
_FORM = re.compile(r"grammar|structured.outputs|json.schema", re.I)
_PROMPT = re.compile(r"prompt|token id|conversation|chat template|messages|multimodal", re.I)
_FORMS = ("structured_outputs", "response_format", "text")
_PARAM = re.compile(r"[A-Za-z_]\w*(?:\.\w+|\[\d+\])*")
_CONTEXT_CHARS = 500
_CONTEXT = re.compile(
    rf"({'|'.join(LIMIT_NAMES)})=([0-9]{{1,9}}) cannot be greater than max_model_len=([0-9]{{1,9}})\."
    r"[^=]{0,100}(?:\(parameter=\1, value=\2\))?"
)
"""The whole of vLLM's message: what it echoes of a client's words must not look like it."""
_INDEX = re.compile(r"\.(\d+)(?=\.|\[|$)")
_FIRST_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class ReplicaError:
    """What is told of a replica's error; `param`: the field at fault, as OpenAI writes it, where the server says."""

    code: str
    message: str
    param: str | None


def replica_error(
    body: bytes, status: int, path: str, secrets: Iterable[str] = (), sent: Collection[str] = ()
) -> ReplicaError:
    """The error in a body.

    Args:
        body: as it came.
        status: of the answer.
        path: what was asked.
        secrets: what the message must not hold.
        sent: the fields of the request, one of which the message may mean without a `param`.
    """
    fields = _fields(body)
    message = fields.get("message") or fields.get("detail") or f"the model's server answered {status}"
    text = presentable(message if isinstance(message, str) else json.dumps(message), secrets)
    if status in (400, 422):
        return _mistake(text, _param(fields.get("param")), path, sent)
    if status == 404 and path == EMBEDDINGS:
        return ReplicaError("not_offered", "the model's server makes no embeddings; set gateway.embeddings_url", None)
    return ReplicaError(_word(status), text, None)


def context_in(body: bytes, asked: Mapping[str, Any]) -> int | None:
    """The replica's context, where the error says that the limit which the gateway has set in `asked` is beyond it."""
    said = _fields(body)
    param, message = said.get("param"), said.get("message")
    if param not in LIMIT_NAMES or not isinstance(message, str) or len(message) > _CONTEXT_CHARS:
        return None
    found = _CONTEXT.fullmatch(message)
    if found is None or found[1] != param or int(found[2]) != asked.get(param):
        return None
    return int(found[3])


def _mistake(text: str, param: str | None, path: str, sent: Collection[str]) -> ReplicaError:
    """The client's."""
    if _TOO_LONG.search(text):
        return ReplicaError(TOO_LONG, text, prompt_field(path))
    if param == "logprobs" and "top_logprobs" in sent:
        param = "top_logprobs"  # vLLM has one number for both
    if param is None:
        param = _meant(text, path, sent)
    if param is None:
        return ReplicaError("bad_request", text, None)
    return ReplicaError("unsupported_parameter" if _UNSUPPORTED.search(text) else "invalid_value", text, param)


def _meant(text: str, path: str, sent: Collection[str]) -> str | None:
    """The field that is meant where the server names none: by the message's first word, or by what it is about."""
    first = _FIRST_WORD.match(text)
    if first is not None and first[0] in sent:
        return first[0]
    if _FORM.search(text) and (forms := [each for each in _FORMS if each in sent]):
        return forms[0]
    field = prompt_field(path)
    return field if _PROMPT.search(text) and field in sent else None


def _fields(body: bytes) -> dict[str, Any]:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    fields = value if isinstance(value, dict) else {}
    return fields["error"] if isinstance(fields.get("error"), dict) else fields


def _param(told: object) -> str | None:
    """As vLLM has it: `body.messages.0.role`."""
    if not isinstance(told, str):
        return None
    param = _INDEX.sub(r"[\1]", told.removeprefix("body."))
    return param if len(param) <= 200 and _PARAM.fullmatch(param) else None


def _word(status: int) -> str:
    if status >= 500:
        return "internal_error"
    return "busy" if status == 429 else HTTPStatus(status).phrase.lower().replace(" ", "_")
