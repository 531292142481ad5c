"""`/readyz` and `/metrics` for strangers: which part is missing, and no address, path or name of a server."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp.test_utils import TestClient, TestServer

from semievold.api.api import Api
from semievold.config.daemon import DaemonConfig

TOKEN = "token-of-the-admin-api"
MISSING = {"control": "http://10.0.0.1:8000 does not answer (/srv/models/w)", "adapter": "db.internal:5432 is away"}


def client(**settings: Any) -> TestClient[Any, Any]:
    config = DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}, "api": settings})
    tools = Mock(readiness=lambda: MISSING, held=lambda: {"rounds": "waits for replica http://10.0.0.2:8000"})
    tools.metrics.render.return_value = b"metrics"
    return TestClient(TestServer(Api(config, tools, TOKEN).app()))


@pytest.mark.parametrize("authorization", [None, "Bearer ", f"Bearer {TOKEN}x", TOKEN, "Bearer ü"])
async def test_strangers_see_which_part_is_missing_and_not_why(authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with client() as it:
        response = await it.get("/readyz", headers=headers)
        assert response.status == 503
        text = await response.text()
        for told in ("10.0.0", "/srv", "db.internal", "http"):
            assert told not in text
        assert set((await response.json())["waiting_for"]) == set(MISSING)


async def test_who_has_the_token_sees_why() -> None:
    async with client() as it:
        response = await it.get("/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (await response.json())["waiting_for"] == MISSING


async def test_metrics_want_the_token_where_the_setting_says_so() -> None:
    async with client() as it:
        assert (await it.get("/metrics")).status == 200
    async with client(metrics_are_open=False) as it:
        assert (await it.get("/metrics")).status == 401
        assert (await it.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})).status == 200
        assert (await it.get("/healthz")).status == 200
