"""What a request's fields mean to the generator in this process: honoured, without effect, or refused by name.

Owns the tables and the checks of OpenAI's fields that all endpoints share. Invariant: no field is ignored: each is
honoured, or has a value that could not change the answer, or the request is refused with the field as `param`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from semievol.types import Constraint

Model = TypeVar("Model", bound=BaseModel)

MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_BIASES = 1_024
MAX_BIAS = 100
MAX_TOP_LOGPROBS = 20
_LONG = 2**63

_NO_TOOLS = "the generator in this process calls no tools; ask without them, or serve the model with vLLM"
_TEXT_ALONE = "the generator in this process reads and writes text alone"

REFUSED: Mapping[str, str] = {
    "audio": _TEXT_ALONE,
    "background": "answers are given at once, and not kept",
    "best_of": "answers are not ranked; ask for n and choose",
    "context_management": "nothing is left out of a conversation",
    "conversation": "nothing is kept between requests; send the whole conversation",
    "echo": "the prompt is not repeated",
    "function_call": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "include": "nothing of this kind can be included",
    "max_tool_calls": _NO_TOOLS,
    "modalities": _TEXT_ALONE,
    "parallel_tool_calls": _NO_TOOLS,
    "prediction": "answers are not predicted",
    "previous_response_id": "nothing is kept between requests; send the whole conversation",
    "prompt": "prompts are not kept here",
    "prompt_cache_retention": "what is kept of a prompt is for this process to say",
    "reasoning": "the model is not asked for reasoning of its own",
    "reasoning_effort": "the model is not asked for reasoning of its own",
    "service_tier": "there is one tier, `default`",
    "store": "nothing is kept; send false",
    "suffix": "text is written at the end alone",
    "tool_choice": _NO_TOOLS,
    "tools": _NO_TOOLS,
    "truncation": "nothing is left out of a conversation; send `disabled`",
    "verbosity": "how much is said is for the messages to say",
    "web_search_options": _NO_TOOLS,
}
"""Fields of OpenAI's that this engine cannot honour, with the reason."""

WITHOUT_EFFECT: Mapping[str, Callable[[Any], bool]] = {
    "background": lambda value: value is False,
    "context_management": lambda value: value == [],
    "echo": lambda value: value is False,
    "function_call": lambda value: value in ("none", "auto"),
    "functions": lambda value: value == [],
    "include": lambda value: value == [],
    "metadata": lambda value: isinstance(value, dict),
    "modalities": lambda value: value == ["text"],
    "parallel_tool_calls": lambda value: isinstance(value, bool),
    "prompt_cache_key": lambda value: isinstance(value, str),
    "prompt_cache_retention": lambda value: value in ("in_memory", "in-memory", "24h"),
    "reasoning_effort": lambda value: value == "none",
    "safety_identifier": lambda value: isinstance(value, str),
    "service_tier": lambda value: value in ("auto", "default"),
    "store": lambda value: value is False,
    "suffix": lambda value: value == "",
    "tool_choice": lambda value: value in ("none", "auto"),
    "tools": lambda value: value == [],
    "truncation": lambda value: value == "disabled",
    "user": lambda value: isinstance(value, str),
    "verbosity": lambda value: value == "medium",
}
"""Fields whose values of these forms change nothing in an answer, so that clients may send them."""


IGNORED_BY_VLLM = frozenset(
    {
        *("audio", "background", "best_of", "conversation", "functions", "max_tool_calls", "modalities"),
        *("prediction", "previous_response_id", "service_tier", "store", "truncation", "web_search_options"),
    }
)
"""Fields of OpenAI's to which vLLM 0.32 does not hold, and says nothing or something misleading."""
OUTDATED = ("guided_", "logits_processors")
"""How fields begin that older versions of vLLM honoured, and that vLLM 0.32 ignores."""


class ClientMistake(Exception):  # noqa: N818 - named by meaning
    """A request that cannot be honoured as it stands; `param` is the field."""

    def __init__(self, param: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(f"{param}: {message}")
        self.param = param
        self.code = code


def check_known(body: Mapping[str, Any], honoured: Collection[str], where: str = "") -> None:
    """That every field of an object is one of those honoured, or has no effect; null is as left out.

    Raises:
        ClientMistake: it is unknown, or cannot be honoured.
    """
    if all(name in honoured for name in body):
        return
    # Who chooses among tools is the smaller matter where there are tools.
    for name, value in sorted(body.items(), key=lambda member: member[0] == "tool_choice"):
        if value is None or name in honoured:
            continue
        without = WITHOUT_EFFECT.get(name)
        if not where and without is not None and without(value):
            continue
        param = f"{where}.{name[:100]}" if where else name[:100]
        if not where and name in REFUSED:
            raise ClientMistake(param, REFUSED[name], "unsupported_parameter")
        if not where and without is not None:
            raise ClientMistake(param, "not a value that is taken here")
        raise ClientMistake(param, "there is no such field here", "unknown_parameter")


def check_honoured(body: Mapping[str, Any]) -> None:
    """What no engine honours: refused before a replica could answer as if it had not been asked for.

    Raises:
        ClientMistake: names the field.
    """
    for name, value in body.items():
        ignored = name in IGNORED_BY_VLLM
        if value is None or not (ignored or name.startswith(OUTDATED)):
            continue
        if not ignored:
            raise ClientMistake(name, "replaced by structured_outputs", "unsupported_parameter")
        without = WITHOUT_EFFECT.get(name)
        same_as_left_out = name == "best_of" and value == (body.get("n") or 1)
        if not same_as_left_out and not (without is not None and without(value)):
            raise ClientMistake(name, REFUSED[name], "unsupported_parameter")
    tools = body.get("tools")
    for place, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict) and tool.get("type", "function") != "function":
            raise ClientMistake(f"tools[{place}].type", "no tool but functions is known", "unsupported_parameter")


class Asked(BaseModel):
    """The fields that chat, completions and responses share. Strict: what has another type is refused."""

    model_config = ConfigDict(extra="ignore", strict=True)

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    def checked_stream_options(self, *honoured: str) -> Mapping[str, Any]:
        """`stream_options`, checked."""
        return checked_stream_options(self.stream_options, bool(self.stream), honoured)


def checked_stream_options(
    options: Mapping[str, Any] | None, streamed: bool, honoured: Sequence[str]
) -> Mapping[str, Any]:
    """`stream_options`, with no members but those honoured and what has no effect.

    Raises:
        ClientMistake: it has others, or stands without `stream`.
    """
    if options is None:
        return {}
    if not streamed:
        raise ClientMistake("stream_options", "this is for requests with stream true")
    check_known(options, (*honoured, "include_obfuscation"), "stream_options")
    padded = options.get("include_obfuscation")
    if not isinstance(padded, (bool, type(None))):
        raise ClientMistake("stream_options.include_obfuscation", "not true or false")
    if padded:
        raise ClientMistake("stream_options.include_obfuscation", "streams are not padded", "unsupported_parameter")
    return options


Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]


class Sampled(Asked):
    """What chat and completions share beyond."""

    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, Bias] | None = Field(default=None, max_length=MAX_BIASES)
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]] | None = Field(
        default=None, max_length=MAX_STOPS
    )
    n: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-_LONG, lt=_LONG)
    structured_outputs: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and not all(token.isascii() and token.isdigit() and len(token) < 10 for token in value):
            raise ValueError("its keys are token ids, whole numbers in quotes")
        return value

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        return tuple((int(token), value) for token, value in (self.logit_bias or {}).items())

    @property
    def include_usage(self) -> bool:
        """Of `stream_options`.

        Raises:
            ClientMistake: it has other members, or stands without `stream`.
        """
        options = self.checked_stream_options("include_usage")
        usage = options.get("include_usage")
        if not isinstance(usage, (bool, type(None))):
            raise ClientMistake("stream_options.include_usage", "not true or false")
        return bool(usage)


def parsed(model: type[Model], body: Mapping[str, Any]) -> Model:
    """The fields of a body.

    Raises:
        ClientMistake: names the first field at fault.
    """
    check_known(body, {*model.model_fields, "model"})
    try:
        return model.model_validate(dict(body))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise ClientMistake(_place(first["loc"]), first["msg"].removeprefix("Value error, ")) from None


def _place(path: Sequence[int | str]) -> str:
    """Where in the body, as OpenAI writes it: `stop[0]`, `logit_bias.60`."""
    first, *inner = path
    return str(first) + "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in inner)


def format_constraint(value: Any, field: str) -> Constraint | None:
    """What `response_format` of chat, or `text.format` of responses, asks for.

    Raises:
        ClientMistake: it is none of text, json_object, json_schema.
    """
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint("json_schema", field, '{"type":"object"}')
    if kind != "json_schema":
        raise ClientMistake(f"{field}.type", "not one of text, json_object, json_schema")
    described = value.get("json_schema", value)
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        raise ClientMistake(
            f"{field}.json_schema.schema" if "json_schema" in value else f"{field}.schema", "not a JSON schema"
        )
    return Constraint("json_schema", field, to_json(described["schema"], field))


def structured_constraint(value: Mapping[str, Any] | None) -> Constraint | None:
    """What vLLM's field `structured_outputs` asks for: one of choice, regex, json, json_object.

    Raises:
        ClientMistake: it asks for something else, or for several.
    """
    asked = {name: each for name, each in (value or {}).items() if each is not None}
    if not asked:
        return None
    field = "structured_outputs"
    check_known(asked, ("choice", "regex", "json", "json_object"), field)
    if len(asked) > 1:
        raise ClientMistake(field, "asks for several forms at once; name one")
    ((name, form),) = asked.items()
    field = f"{field}.{name}"
    if name == "choice":
        if not isinstance(form, list) or not form or not all(isinstance(each, str) and each for each in form):
            raise ClientMistake(field, "not a list of texts")
        return Constraint("choice", field, choices=tuple(form))
    if name == "regex":
        if not isinstance(form, str):
            raise ClientMistake(field, "not a text")
        return Constraint("regex", field, form)
    if name == "json_object":
        if form is not True:
            raise ClientMistake(field, "not true")
        return Constraint("json_schema", field, '{"type":"object"}')
    return Constraint("json_schema", field, form if isinstance(form, str) else to_json(form, field))


def to_json(value: Any, field: str) -> str:
    """A part of the body as JSON again.

    Raises:
        ClientMistake: it is nested too deeply.
    """
    try:
        return json.dumps(value)
    except RecursionError:
        raise ClientMistake(field, "nested too deeply") from None
