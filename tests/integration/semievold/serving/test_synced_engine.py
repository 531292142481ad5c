"""A real vLLM whose adapters come from object storage by the sidecar: loaded, attested, and never from a torn copy."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from semievol.adapter_directory import CONTENT_FILES, MANIFEST_FILE, MARKER_FILE, WEIGHTS_FILE
from semievold.serving.storage.object_storage import AdapterStorage
from tests.replica_world import held
from tests.servers.s3 import files_at, new_bucket, s3_server
from tests.servers.vllm import START_S, VllmServer
from tests.sync_sidecar import sidecar
from tests.workload_fleet import workload_fleet

pytestmark = pytest.mark.timeout(START_S + 120)


async def test_vllm_serves_what_the_sidecar_fetched_and_a_torn_version_only_once_it_is_mended(
    vllm_server: VllmServer, tmp_path: Path
) -> None:
    trainers, engines = tmp_path / "trainer" / "adapters", tmp_path / "engine"
    with s3_server():
        url = new_bucket()
        storage = AdapterStorage.open(url)
        files, root = files_at(url)
        first, second = [(await held(vllm_server.model, trainers, seed)).path for seed in (1, 2)]
        storage.publish(first)
        beside = sidecar("--storage", url, "--into", str(engines), "--engine", vllm_server.url, log=tmp_path / "log")
        daemon = workload_fleet("tiny", [vllm_server], tmp_path, storage=storage, adapters_path=str(engines))
        with beside as synced:
            async with daemon as leader:
                await asyncio.to_thread(synced.until, lambda: synced.status("/readyz") == 200)
                await leader.serve(leader.register(first))
                assert (await leader.answer("red 1"))[0] == first.name

                for file in (*CONTENT_FILES, MANIFEST_FILE, MARKER_FILE):  # by whom keeps to no order, say
                    sent = (second / file).read_bytes()
                    torn = sent[:-100] if file == WEIGHTS_FILE else sent
                    files.pipe_file(f"{root}/{second.name}/{file}", torn)
                leader.register(second)
                shutil.copytree(second, leader.directory / second.name)  # the leader itself trained it
                loading = asyncio.create_task(leader.fleet.load(second.name))
                await leader.world.wait_until(
                    lambda: "No adapter found" in reason(leader.world.view(vllm_server).adapters.get(second.name))
                )
                await asyncio.to_thread(synced.until, lambda: synced.metric("refused_total") >= 1)
                assert [path.name for path in engines.iterdir()] == [first.name]
                assert second.name not in vllm_server.models()
                assert (await leader.answer("red 1"))[0] == first.name  # and what serves goes on

                storage.publish(second)
                await loading
                await leader.serve(second.name)
                assert (await leader.answer("red 1"))[0] == second.name

                assert synced.metric("fetched_total") == 2

                storage.remove(first.name)
                looked = synced.metric("last_look_timestamp_seconds")
                await asyncio.to_thread(
                    synced.until, lambda: synced.metric("last_look_timestamp_seconds") > looked + 0.5
                )
                assert (engines / first.name).is_dir()  # vLLM may read it again: a rollback would ask for it
                for _ in range(2):  # now it is neither what serves nor what did before
                    await leader.move(None)
                await leader.fleet.release(5.0)
                await asyncio.to_thread(synced.until, lambda: not (engines / first.name).exists())
                assert (engines / second.name).is_dir()


def reason(attestation: object) -> str:
    return str(getattr(attestation, "reason", ""))
