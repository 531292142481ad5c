"""What the code takes from libraries without a promise: it is listed here, it is there, and the library is pinned.

A name that is missing after an upgrade fails here by its name, before anything that trains or streams does.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[3]
BATCHES = "daemon/semievold/streams/kafka/client/batches.py"
CLIENT = "daemon/semievold/streams/kafka/client/connection.py"
MEMBER = "daemon/semievold/streams/kafka/client/member.py"
SENDER = "daemon/semievold/streams/kafka/client/sender.py"
TRANSACTIONS = "daemon/semievold/streams/kafka/client/transactions.py"
WEIGHTS = "semievol/training/lora_weights.py"


class Private(NamedTuple):
    """One call: in which file, of which package, and what has to exist for it."""

    file: str
    package: str
    name: str


PRIVATE = [
    Private(BATCHES, "kafka-python", "kafka.codec.has_lz4"),
    Private(BATCHES, "kafka-python", "kafka.codec.has_zstd"),
    Private(BATCHES, "kafka-python", "kafka.record.default_records.DefaultRecord"),
    Private(BATCHES, "kafka-python", "kafka.record.default_records.DefaultRecordBatch._maybe_uncompress"),
    Private(BATCHES, "kafka-python", "kafka.record.default_records.DefaultRecordBatch._next_record_index"),
    Private(BATCHES, "kafka-python", "kafka.record.default_records.DefaultRecordBatch._num_records"),
    Private(BATCHES, "kafka-python", "kafka.record.default_records.DefaultRecordBatch._read_msg"),
    Private(BATCHES, "kafka-python", "kafka.record.memory_records.DefaultRecordBatch"),
    Private(MEMBER, "kafka-python", "kafka.coordinator.assignors.cooperative_sticky.CooperativeStickyAssignor"),
    Private(CLIENT, "kafka-python", "kafka.net.compat.KafkaNetClient"),
    Private(CLIENT, "kafka-python", "kafka.net.connection.KafkaConnection.init_future"),
    Private(CLIENT, "kafka-python", "kafka.net.manager.KafkaConnectionManager.close"),
    Private(CLIENT, "kafka-python", "kafka.net.manager.KafkaConnectionManager.get_connection"),
    Private(CLIENT, "kafka-python", "kafka.net.selector.NetworkSelector.close"),
    Private(SENDER, "kafka-python", "kafka.producer.kafka.KafkaProducer._sender"),
    Private(SENDER, "kafka-python", "kafka.producer.sender.Sender.force_close"),
    Private(SENDER, "kafka-python", "kafka.producer.sender.Sender.join"),
    Private(TRANSACTIONS, "kafka-python", "kafka.producer.kafka.KafkaProducer._sender"),
    Private(TRANSACTIONS, "kafka-python", "kafka.producer.kafka.KafkaProducer._transaction_manager"),
    Private(TRANSACTIONS, "kafka-python", "kafka.producer.sender.Sender.wakeup"),
    Private(TRANSACTIONS, "kafka-python", "kafka.producer.transaction_manager.TransactionManager.begin_commit"),
    Private(
        TRANSACTIONS,
        "kafka-python",
        "kafka.producer.transaction_manager.TransactionManager.send_offsets_to_transaction",
    ),
    Private(TRANSACTIONS, "kafka-python", "kafka.producer.transaction_manager.TransactionalRequestResult.wait"),
    Private(MEMBER, "kafka-python", "kafka.structs.MemberState.STABLE"),
    Private(WEIGHTS, "peft", "peft.tuners.lora.LoraLayer.lora_A"),
    Private(WEIGHTS, "peft", "peft.tuners.lora.LoraLayer.lora_B"),
    Private(WEIGHTS, "peft", "peft.tuners.lora.LoraLayer.lora_dropout"),
    Private(WEIGHTS, "peft", "peft.tuners.lora.LoraLayer.lora_variant"),
    Private(WEIGHTS, "peft", "peft.tuners.lora.LoraLayer.scaling"),
    Private(WEIGHTS, "peft", "peft.tuners.lora.layer.LoraVariant.forward"),
    Private("daemon/semievold/web/server.py", "aiohttp", "aiohttp.web.Request._match_info"),
    Private("daemon/semievold/web/connection.py", "aiohttp", "aiohttp.http_exceptions.HttpProcessingError"),
]
# Modules below the top one whose names their library documents, of the packages that the list is about.
DOCUMENTED = {
    "kafka.admin",
    "kafka.errors",
    "peft.helpers",
    "transformers.integrations",
    "transformers.trainer_callback",
    "transformers.utils",
}
# Underscored names that are documented.
PROMISED = {"_asdict", "_exit", "_fields", "_make", "_replace"}


def module_of(name: str) -> tuple[Any, list[str]]:
    """The module in a dotted name, and what follows it."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            return importlib.import_module(".".join(parts[:length])), parts[length:]
        except ModuleNotFoundError:
            continue
    raise AssertionError(f"{parts[0]} is not installed")


def is_there(name: str) -> bool:
    """Also for attributes that the class gives its instances when they are made."""
    found, rest = module_of(name)
    for part in rest:
        if not hasattr(found, part):
            return inspect.isclass(found) and part in found.__init__.__code__.co_names
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("call", PRIVATE, ids=lambda call: call.name)
def test_what_is_called_without_being_promised_is_there(call: Private) -> None:
    pytest.importorskip(call.name.partition(".")[0])
    assert is_there(call.name), f"{call.file} needs {call.name}, which this version of {call.package} has not"


def test_a_client_of_kafka_takes_the_connections_that_it_is_given() -> None:
    compat = pytest.importorskip("kafka.net.compat")
    assert {"net", "manager"} <= inspect.signature(compat.KafkaNetClient).parameters.keys()
    kafka = pytest.importorskip("kafka")
    for client in (kafka.KafkaConsumer, kafka.KafkaProducer, kafka.KafkaAdminClient):
        assert "kafka_client" in client.DEFAULT_CONFIG


def test_peft_hands_a_variant_what_it_multiplies() -> None:
    layer = pytest.importorskip("peft.tuners.lora.layer")
    handed = inspect.signature(layer.LoraVariant.forward).parameters
    assert list(handed)[:4] == ["module", "active_adapter", "x", "result"]


def test_what_a_training_overrides_is_there_to_be_overridden() -> None:
    """The names are documented; but without them the override would be called by nobody, and nothing would say so."""
    pytest.importorskip("torch")
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from semievol.training.lora_steps import LoraTrainer

    for name in ("compute_loss", "floating_point_ops", "get_batch_samples", "loss_is_scaled_for_ga"):
        assert hasattr(Trainer, name), name
        assert name in vars(LoraTrainer), name
    assert {"on_save", "on_step_begin", "on_step_end"} <= vars(TrainerCallback).keys()
    assert isinstance(TrainingArguments.n_gpu, property)
    taken = {name for name in vars(LoraTrainer) if name.startswith("_") and not name.startswith("__")}
    assert not taken & vars(Trainer).keys()


def test_a_connection_finds_in_aiohttps_what_it_looks_at() -> None:
    from aiohttp.http_exceptions import HttpProcessingError
    from aiohttp.web import RequestHandler

    there = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    assert {"_loop", "_messages", "_request_count", "_upgraded", "_waiter"} <= there
    assert issubclass(HttpProcessingError, Exception)
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    [wanted] = [Requirement(text) for text in dependencies if Requirement(text).name == "aiohttp"]
    assert "3.14.5" in wanted.specifier
    assert "3.15.0" not in wanted.specifier


def code() -> Iterator[tuple[str, ast.Module]]:
    for package in ("semievol", "daemon"):
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text("utf-8"))


def test_no_underscored_name_of_another_package_is_used_that_is_not_listed() -> None:
    listed = {(call.file, call.name.rpartition(".")[2]) for call in PRIVATE}
    unlisted = []
    for file, tree in code():
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        ours = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "self"}
        ours |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        for node in attributes:
            private = node.attr.startswith("_") and not node.attr.endswith("__")
            if private and node.attr not in ours | PROMISED and (file, node.attr) not in listed:
                unlisted.append(f"{file}:{node.lineno} {ast.unparse(node)}")
    assert unlisted == []


def test_no_undocumented_module_of_a_pinned_package_is_imported_that_is_not_listed() -> None:
    tops = {call.name.partition(".")[0] for call in PRIVATE} | {name.partition(".")[0] for name in DOCUMENTED}
    unlisted = []
    for file, tree in code():
        for node in ast.walk(tree):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module is None or "." not in module or module.partition(".")[0] not in tops or module in DOCUMENTED:
                continue
            assert isinstance(node, ast.ImportFrom)
            for alias in node.names:
                name = f"{module}.{alias.name}"
                if not any(call.file == file and f"{call.name}.".startswith(f"{name}.") for call in PRIVATE):
                    unlisted.append(f"{file}:{node.lineno} {name}")
    assert unlisted == []


@pytest.mark.parametrize("package", sorted({call.package for call in PRIVATE}))
def test_a_package_with_private_calls_is_pinned_to_the_minor_version_that_is_locked(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [project["dependencies"], *project["optional-dependencies"].values()]
    [wanted] = {text for each in asked for text in each if Requirement(text).name == package}
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    [locked] = [Requirement(line) for line in lock.splitlines() if line.startswith(f"{package}==")]
    version = Version(str(locked.specifier).removeprefix("=="))
    specifier = Requirement(wanted).specifier
    assert version in specifier
    assert Version(f"{version.major}.{version.minor + 1}.0") not in specifier
    [lowest] = [Version(bound.version) for bound in specifier if bound.operator == ">="]
    assert lowest.release[:2] == version.release[:2]
