"""The whole daemon with two vLLM replicas: a round is trained, attested on both, promoted and served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess, example, query, tiny_config
from tests.servers.vllm import START_S, VllmServer

pytestmark = pytest.mark.timeout(START_S + 400)


def test_a_round_is_trained_attested_on_both_replicas_promoted_and_served(
    vllm_pair: list[VllmServer], tmp_path: Path
) -> None:
    names = [f"127.0.0.1:{server.port}" for server in vllm_pair]
    daemon = DaemonProcess(
        tiny_config(
            tmp_path,
            model={"name": str(vllm_pair[0].model), "dtype": "float32", "device": "cpu"},
            generation={"threads": None, "kind": "vllm", "replicas": [server.url for server in vllm_pair]},
        )
    )
    daemon.start()
    try:
        daemon.wait_until(lambda: daemon.get("/readyz").status_code == 200, 240.0)
        daemon.publish("labels", [example(number) for number in range(60)])
        daemon.publish("queries", [query(number) for number in range(24)])
        daemon.wait_until(lambda: daemon.rounds() and daemon.rounds()[0]["state"] == "settled", 300.0)
        daemon.wait_until(lambda: daemon.status()["pseudo_labels"]["total"] == 24, 120.0)
        adapter = daemon.status()["serving"]
        assert adapter == daemon.rounds()[0]["adapter"]

        attestation = daemon.get("/v1/rounds/0").json()["attestation"]
        assert attestation["passed"]
        assert sorted(attestation["replicas"]) == sorted(names)
        for each in attestation["replicas"].values():
            assert each["passed"]
            assert each["deviation"] <= each["tolerance"]
            assert each["noise"] is not None
        assert all(adapter in server.models() for server in vllm_pair)
        assert {view["name"]: view["state"] for view in daemon.status()["replicas"]} == dict.fromkeys(names, "up")
        metrics = daemon.get("/metrics").text
        for name in names:
            assert f'semievol_replica_state{{replica="{name}",state="up",workload="tiny"}} 1.0' in metrics
            assert f'semievol_replica_attested{{adapter="{adapter}",replica="{name}",workload="tiny"}} 1.0' in metrics

        answered = daemon.chat("red 1")
        assert answered.status_code == 200, answered.text
        assert answered.headers["x-semievol-adapter"] == adapter
    finally:
        code = daemon.stop()
    assert code == 0, daemon.log()
    assert all(server.healthy() for server in vllm_pair)
