"""A field that a replica's server does not know is refused; a server that does not tell is asked as it is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from semievold.gateway.replica import fields
from semievold.gateway.replica.fields import fields_of
from tests.openai_double import Double, Front, front

FIELDS = frozenset({"model", "messages", "temperature", "stream", "max_tokens", "max_completion_tokens", "top_k"})


async def refusal_of(it: Front, **body: Any) -> dict[str, Any]:
    async with it.ask(**body) as response:
        assert response.status == 400, await response.text()
        found: dict[str, Any] = (await response.json())["error"]
    return found


async def test_what_the_server_does_not_know_is_refused_by_name() -> None:
    async with front([Double("a", fields=FIELDS)]) as it:
        found = await refusal_of(it, temprature=0)
        assert (found["param"], found["code"]) == ("temprature", "unknown_parameter")
        found = await refusal_of(it, verbosity="low")
        assert (found["param"], found["code"]) == ("verbosity", "unsupported_parameter")
        assert it.doubles[0].asked == []


@pytest.mark.parametrize("body", [{"top_k": 5}, {"temprature": None}, {"user": "ann"}, {"verbosity": "medium"}])
async def test_what_it_knows_and_what_changes_nothing_passes(body: dict[str, Any]) -> None:
    async with front([Double("a", fields=FIELDS)]) as it, it.ask(**body) as response:
        assert response.status == 200, await response.text()


async def test_a_server_that_does_not_tell_is_asked_as_it_is() -> None:
    async with front([Double("a")]) as it:
        async with it.ask(temprature=0) as response:
            assert response.status == 200
        assert it.doubles[0].asked[0][1]["temprature"] == 0


async def test_a_replica_is_asked_once_and_again_when_it_had_failed() -> None:
    double = Double("a", fields=FIELDS)
    async with front([double], retries=0) as it:
        for _ in range(3):
            async with it.ask() as response:
                assert response.status == 200
        assert double.told == 1
        double.fault = "500"
        async with it.ask() as response:
            assert response.status == 503
        double.fault, double.fields = "", FIELDS | {"temprature"}
        async with it.ask(temprature=0) as response:
            assert response.status == 200
        assert double.told == 2


async def test_nobody_waits_long_for_a_server_that_tells_late_and_what_comes_late_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fields, "_PATIENCE_S", 0.05)
    double = Double("a", "fields late", fields=FIELDS)
    async with front([double]) as it:
        async with it.ask(temprature=0) as response:
            assert response.status == 200
        monkeypatch.setattr(fields, "_PATIENCE_S", 60.0)
        async with asyncio.timeout(5), it.ask(temprature=0) as response:
            assert response.status == 200
        double.shown.set()
        status = 200
        async with asyncio.timeout(5):
            while status == 200:
                async with it.ask(temprature=0) as response:
                    status = response.status
        assert status == 400


def test_fields_are_read_where_a_document_has_them() -> None:
    schema = {"$ref": "#/components/schemas/Asked"}
    document = {
        "paths": {
            "/v1/chat/completions": {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}},
            "/v1/odd": {"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}},
            "/health": {"get": {}},
        },
        "components": {"schemas": {"Asked": {"properties": {"model": {}, "messages": {}}}}},
    }
    assert fields_of(document) == {"/v1/chat/completions": {"model", "messages"}}


@pytest.mark.parametrize(
    "document", [None, [], "x", {}, {"paths": []}, {"paths": {"/v1": None}}, {"paths": {"/v1": 1}}]
)
def test_a_document_of_another_form_lists_nothing(document: Any) -> None:
    assert fields_of(document) == {}
