"""`semievold sync-adapters` as a process, on S3: what it brings, refuses, keeps and says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from semievol.adapter_directory import WEIGHTS_FILE
from semievold.serving.storage.object_storage import AdapterStorage
from tests.servers.s3 import files_at, new_bucket, s3_server
from tests.small_adapter import small_adapter
from tests.sync_sidecar import COMMAND, sidecar


def test_what_is_torn_is_refused_counted_and_told_and_a_storage_that_is_away_takes_nothing_away(tmp_path: Path) -> None:
    here = tmp_path / "here"
    whole, torn = [small_adapter(tmp_path / "adapters", f"w-r{number:04}", b"x" * number) for number in (1, 2)]
    with s3_server():
        url = new_bucket()
        storage = AdapterStorage.open(url)
        files, root = files_at(url)
        for adapter in (whole, torn):
            storage.publish(adapter)
        files.pipe_file(f"{root}/{torn.name}/{WEIGHTS_FILE}", b"x")
        with sidecar("--storage", url, "--into", str(here), log=tmp_path / "log") as beside:
            beside.until(lambda: beside.status("/readyz") == 200)
            assert [path.name for path in here.iterdir()] == [whole.name]
            assert beside.metric("refused_total") >= 1
            assert f"{torn.name}: refused, what came is not what was published" in beside.log()
            files.rm(root.partition("/")[0], recursive=True)  # as does who deletes the bucket
            beside.until(lambda: beside.metric("failed_looks_total") >= 2)
            assert [path.name for path in here.iterdir()] == [whole.name]
            assert beside.status("/readyz") == beside.status("/healthz") == 200
            assert beside.log().count("there is no such place") == 1
            assert beside.stop() == 0


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    config = tmp_path / "semievol.yaml"
    config.write_text("workload: w\nmodel: {name: m}\ntask: {labels: [a, b]}\n", "utf-8")
    other = tmp_path / "other.yaml"
    other.write_text(
        "artifacts: {storage: 's3://bucket/x'}\nstream: {kind: kafka, kafka: {security_protocol: SASL_SSL}}\n", "utf-8"
    )
    command = [*COMMAND, "--into", str(tmp_path / "here")]
    for more, text in (
        (("--config", str(config)), "artifacts.storage: missing; set it in the configuration, or give --storage"),
        (("--storage", "nowhere://x"), "--storage: is no address of object storage; write s3://BUCKET/PATH"),
        (("--storage", "s3://key:secret@bucket/x"), "without credentials"),
        (("--storage", "s3://bucket/x", "--into", "/proc/here"), "--into: /proc/here cannot be made"),
        # Passwords of other sections are not for this process: it does not miss them.
        (("--config", str(other), "--into", "/proc/here"), "--into: /proc/here cannot be made"),
    ):
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr


def test_a_variable_names_the_storage_where_there_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("s3://bucket/x\n", "utf-8")
    named = {"SEMIEVOL__ARTIFACTS__STORAGE_FILE": str(tmp_path / "url")}
    for environment, text in (
        (named, "--into: /proc/here cannot be made"),  # which is asked after the storage
        ({}, "artifacts.storage: missing"),
    ):
        done = subprocess.run(
            [*COMMAND, "--into", "/proc/here", "--config", str(tmp_path / "none.yaml")],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr
