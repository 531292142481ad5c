"""A replica's error as clients see it: a code of the gateway's own, and the field as OpenAI writes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from semievold.gateway.call import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from semievold.gateway.replica.errors import ReplicaError, replica_error


def told(status: int, error: Any, path: str = CHAT) -> ReplicaError:
    return replica_error(json.dumps({"error": error}).encode(), status, path)


def vllm(message: str, param: str | None = None) -> dict[str, Any]:
    return {"message": message, "type": "BadRequestError", "param": param, "code": 400}


@pytest.mark.parametrize(
    ("param", "field"),
    [
        ("temperature", "temperature"),
        ("body.messages", "messages"),
        ("body.messages.0.content.1.text", "messages[0].content[1].text"),
        ("body.stop.0", "stop[0]"),
        ("", None),
        ("body.<b>", None),
        ("a" * 300, None),
        (7, None),
        (None, None),
    ],
)
def test_the_field_is_named_as_openai_names_it(param: Any, field: str | None) -> None:
    found = told(400, vllm("no good", param))
    assert (found.param, found.code) == (field, "bad_request" if field is None else "invalid_value")


@pytest.mark.parametrize(
    ("path", "field"), [(CHAT, "messages"), (COMPLETIONS, "prompt"), (RESPONSES, "input"), (EMBEDDINGS, "input")]
)
def test_a_prompt_beyond_the_context_has_openais_code(path: str, field: str) -> None:
    words = "This model's maximum context length is 1024 tokens. However, you requested 12 output tokens"
    assert told(400, vllm(words, "input_tokens"), path).code == "context_length_exceeded"
    assert told(400, vllm(words, "input_tokens"), path).param == field
    limit = "max_tokens=9000 cannot be greater than max_model_len=1024"
    assert told(400, vllm(limit, "max_tokens"), path) == ReplicaError("context_length_exceeded", limit, field)


@pytest.mark.parametrize(
    ("status", "path", "code"),
    [
        (404, CHAT, "not_found"),
        (404, EMBEDDINGS, "not_offered"),
        (413, CHAT, "request_entity_too_large"),
        (422, CHAT, "bad_request"),
        (429, CHAT, "busy"),
        (500, CHAT, "internal_error"),
    ],
)
def test_no_code_is_a_class_of_the_servers(status: int, path: str, code: str) -> None:
    assert told(status, {"message": "x", "type": "SomeError"}, path).code == code


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b'{"error": "x"}', b"[" * 100_000, b'{"detail": [{"loc": [1]}]}'])
def test_whatever_comes_as_an_error_is_told(body: bytes) -> None:
    found = replica_error(body, 400, CHAT)
    assert found.code == "bad_request"
    assert found.message


@pytest.mark.parametrize(
    ("words", "path", "sent", "code", "field"),
    [
        ("n must be 1 when using greedy sampling, got 2.", CHAT, {"n"}, "invalid_value", "n"),
        ("stop cannot contain an empty string.", CHAT, {"stop", "n"}, "invalid_value", "stop"),
        ("suffix is only supported for some models", COMPLETIONS, {"suffix"}, "unsupported_parameter", "suffix"),
        ("base is not a multimodal model", CHAT, {"messages"}, "unsupported_parameter", "messages"),
        ("Grammar error: Invalid type", CHAT, {"response_format"}, "invalid_value", "response_format"),
        ("structured outputs: one", CHAT, {"text", "structured_outputs"}, "invalid_value", "structured_outputs"),
        ("Grammar error: Invalid type", RESPONSES, {"text"}, "invalid_value", "text"),
        ("Token id 9 is out of vocabulary", COMPLETIONS, {"prompt"}, "invalid_value", "prompt"),
        ("Cannot apply chat template to an empty conversation.", CHAT, {"messages"}, "invalid_value", "messages"),
        ("something went wrong", CHAT, {"messages", "n"}, "bad_request", None),
    ],
)
def test_where_the_server_names_no_field_its_words_do(
    words: str, path: str, sent: set[str], code: str, field: str | None
) -> None:
    body = json.dumps({"error": vllm(words)}).encode()
    found = replica_error(body, 400, path, sent={"model", *sent})
    assert (found.code, found.param) == (code, field)


def test_vllms_one_number_of_log_probabilities_is_top_logprobs_in_chat() -> None:
    body = json.dumps({"error": vllm("too many", "logprobs")}).encode()
    assert replica_error(body, 400, CHAT, sent={"logprobs", "top_logprobs"}).param == "top_logprobs"
    assert replica_error(body, 400, COMPLETIONS, sent={"logprobs"}).param == "logprobs"


def test_secrets_and_addresses_are_not_told() -> None:
    body = json.dumps({"error": {"message": "ask http://10.0.0.7:8000/x with key-1"}}).encode()
    assert replica_error(body, 400, CHAT, ["key-1"]).message == "ask [address] with [secret]"


def test_a_list_of_numbers_is_no_address() -> None:
    words = "token_id(s) [99999999] at [::1]:80 and [fe80::7] are odd"
    assert told(400, vllm(words)).message == "token_id(s) [99999999] at [address] and [address] are odd"
