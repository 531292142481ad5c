"""Each call of a real client library: both engines answer alike, or the generator in this process refuses by name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import environments, gateways, table
from tests.clients.calls import ENVIRONMENTS, Call, all_calls
from tests.clients.verdicts import Kind, verdict
from tests.servers import unavailable
from tests.servers.vllm import need_vllm

pytestmark = pytest.mark.timeout(2 * gateways.WHOLE_RUN_S)

CALLS = all_calls()
Outcomes = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="session")
def without_node() -> str | None:
    """Why the libraries for Node.js cannot be asked, or None."""
    return environments.node_missing()


@pytest.fixture(scope="session")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, without_node: str | None
) -> Outcomes:
    """What came of the calls that this session asks for, by engine and by name."""
    if not gateways.MODEL.is_dir():
        unavailable("no model in .cache/models; `make clients` brings it")
    need_vllm()
    for name in {"newest", *ENVIRONMENTS.values()}:
        environments.install(name)
    asked = {item.callspec.params["call"].name for item in request.session.items if hasattr(item, "callspec")}
    calls = [call for call in CALLS if call.name in asked and not (without_node and call.by_node)]
    found = {}
    for engine, opened in (("embedded", gateways.embedded), ("vllm", gateways.over_vllm)):
        directory = tmp_path_factory.mktemp(engine)
        with opened(directory) as gateway:
            found[engine] = gateways.made(calls, gateway)
    return found


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_both_engines_answer_alike_or_the_one_in_this_process_refuses(
    call: Call, outcomes: Outcomes, without_node: str | None
) -> None:
    if without_node and call.by_node:
        pytest.skip(without_node)
    found = verdict(call, outcomes["embedded"][call.name], outcomes["vllm"][call.name])
    assert found.kind is not Kind.DIFFERS, "\n".join(found.reasons)


def test_the_table_in_the_documentation_is_that_of_this_run(outcomes: Outcomes) -> None:
    if any(call.name not in outcomes["vllm"] for call in CALLS):
        pytest.skip("not every call was made; the table stays as it is")
    both = {call.name: verdict(call, outcomes["embedded"][call.name], outcomes["vllm"][call.name]) for call in CALLS}
    if any(each.kind is Kind.DIFFERS for each in both.values()):
        pytest.skip("some calls differ; the table stays as it is")
    page = table.PAGE.read_text("utf-8")
    table.PAGE.write_text(table.written(page, CALLS, both, outcomes), "utf-8")
    assert [row.what for row in table.rows(table.PAGE.read_text("utf-8"))] == [call.what for call in CALLS]
