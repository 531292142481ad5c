"""What k8s/ ships renders, is valid for Kubernetes, and fits the code: configurations, commands, secrets, stops."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from semievol.config.file import load_config
from semievold.commands import cli
from semievold.config.daemon import ROLES, DaemonConfig
from semievold.intake.reading import group_of
from semievold.web.server import PARTING_S
from tests.manifests import (
    COMPONENTS,
    K8S,
    OVERLAYS,
    ROOT,
    Manifest,
    containers,
    everything,
    named,
    of_kind,
    on_the_base,
    overlay,
    own_config,
    pods,
    seconds_to_stop,
    ways,
)

README = (K8S / "README.md").read_text("utf-8")
SECRET_FILE = re.compile(r"^(SEMIEVOL__\w+)_FILE$")


def test_what_there_is_is_what_the_readme_names() -> None:
    assert set(re.findall(r"`(?:k8s/)?components/([a-z-]+)`", README)) == set(COMPONENTS)
    assert set(re.findall(r"`(?:k8s/)?overlays/([a-z-]+)`", README)) == set(OVERLAYS)


# --- the daemon in it -----------------------------------------------------------------------------------------------


def environment(objects: list[Manifest], pod: Manifest, folder: Path) -> dict[str, str]:
    """A daemon container's variables, with every mounted secret lying in `folder`.

    Fails where a variable names a file that no volume of the pod brings.
    """
    (container,) = pod["spec"]["containers"]
    brought = {}
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        sources = [each["secret"] for each in volume.get("projected", {}).get("sources", ())]
        sources += [volume["secret"]] if "secret" in volume else []
        for item in [item for source in sources for item in source["items"]]:
            file = folder / item["path"]
            is_url = item["path"] == "state-url"
            file.write_text("postgresql+psycopg://semievol:secret@postgres/semievol" if is_url else "0123456789abcdef")
            brought[f"{mount['mountPath']}/{item['path']}"] = str(file)
    values = {each["name"]: each["value"] for each in container["env"]}
    return {name: brought[value] if SECRET_FILE.match(name) else value for name, value in values.items()}


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("role", ROLES)
def test_the_configuration_is_valid_in_the_environment_of_every_role(name: str, role: str, tmp_path: Path) -> None:
    objects = overlay(name)
    (tmp_path / "semievol.yaml").write_text(own_config(objects), "utf-8")
    values = environment(objects, pods(objects)[role], tmp_path)
    config = load_config(DaemonConfig, tmp_path / "semievol.yaml", values)
    assert config.stream.kind == "kafka"
    assert config.store_url.startswith("postgresql+psycopg://")
    assert config.api.token == "0123456789abcdef"
    assert config.embedding.api_key == "0123456789abcdef"
    assert (config.generation.api_key is None) is (role == "labels")
    assert (config.gateway.token is None) is (role != "gateway")
    assert config.stream.kafka.security_protocol == "PLAINTEXT" or config.stream.kafka.sasl_password is not None
    # The names under which others find it.
    services = {each["metadata"]["name"] for each in of_kind(objects, "Service")}
    for address in (config.generation.dns, config.embedding.base_url, config.gateway.embeddings_url):
        assert address is not None
        assert address.split("//")[1].split(":")[0] in services


def commands() -> Any:
    """What `semievold` has."""
    app = typer.Typer()
    cli._add_roles(app)
    cli.register(app)
    return typer.main.get_command(app)


def test_every_command_of_the_readme_exists() -> None:
    shown = re.findall(r"-- semievol ([a-z]+)(?: ([a-z]+))?", README)
    assert shown
    for first, second in shown:
        found = commands().commands[first]
        assert not second or second in found.commands
    for folder in re.findall(r"(?:-k|kustomize|-f) (k8s/\S+)", README):
        assert (ROOT / folder).exists(), folder


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_role_runs_by_a_command_of_the_daemon(name: str) -> None:
    there = pods(overlay(name))
    assert set(ROLES) <= there.keys()
    for role in ROLES:
        (container,) = there[role]["spec"]["containers"]
        assert "command" not in container  # the images' entry point is semievold
        assert container["args"] == [role]
        assert role in commands().commands
    for file in ("Dockerfile", "trainer.Dockerfile"):
        assert 'ENTRYPOINT ["semievold"]' in (ROOT / "deploy" / file).read_text("utf-8")


def test_a_program_of_a_shell_script_is_in_the_images() -> None:
    """What the fetching Job and the waiting containers call, beside the shell's own words."""
    own = {"fetch()", "fetch", "test", "until", "do", "done;", "sleep", "mv", "}"}
    for pod in pods(overlay("try")).values():
        for container in containers(pod):
            if container.get("command", [""])[0] != "sh":
                continue
            script = [*container["command"], *container.get("args", ())][-1]
            words = [line.split()[0] for line in script.splitlines() if line.strip() and line.strip()[0] not in "#-"]
            assert set(words) <= own | {"hf"}, words
    hf = shutil.which("hf", path=str(Path(shutil.which("semievold") or "/").parent)) or shutil.which("hf")
    if hf is not None:
        said = subprocess.run([hf, "download", "--help"], capture_output=True, text=True, check=True).stdout
        assert {"--revision", "--local-dir", "--exclude"} <= set(re.findall(r"--[a-z-]+", said))


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_engine_fits_the_configuration_and_is_started_as_in_deploy(name: str) -> None:
    objects = overlay(name)
    config = DaemonConfig.model_validate(
        yaml.safe_load(own_config(objects))
        | {"stream": {"kind": "local"}, "store": {}}  # the secrets of the others are elsewhere
    )
    engine = next(each for each in pods(objects)["vllm"]["spec"]["containers"] if each["name"] == "vllm")
    flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in engine["args"])
    assert int(flags["max-lora-rank"]) >= config.training.rank
    assert int(flags["max-loras"]) > config.generation.max_adapters
    assert flags["served-model-name"] == config.generation.base_name
    assert flags["model"] == config.model.name
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    kind = "vllm-cpu" if "no-enable-chunked-prefill" in flags else "vllm-gpu"
    deployed = {flag.removeprefix("--").partition("=")[0] for flag in compose[kind]["command"]}
    assert flags.keys() == deployed
    (image,) = {compose[kind]["image"]}
    assert engine["image"] == image
    assert engine["command"] == compose[kind]["entrypoint"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_adapters_and_models_are_under_the_same_path_everywhere_and_written_by_one_role(name: str) -> None:
    places: dict[str, dict[str, tuple[str, bool]]] = {}
    for pod_name, pod in pods(overlay(name)).items():
        claims = {
            each["name"]: each["persistentVolumeClaim"]["claimName"]
            for each in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in each
        }
        for mount in pod["spec"]["containers"][0]["volumeMounts"]:
            if mount["name"] in claims:
                place = (mount["mountPath"], mount.get("readOnly", False))
                places.setdefault(claims[mount["name"]], {})[pod_name] = place
    assert {path for path, _ in places["adapters"].values()} == {"/data/adapters"}
    assert set(places["adapters"]) == {"control", "gateway", "intake", "training", "vllm"}
    # Trainings publish, control deletes.
    assert {who for who, (_, read_only) in places["adapters"].items() if not read_only} == {"control", "training"}
    assert {path for path, _ in places["models"].values()} == {"/models"}
    assert {who for who, (_, read_only) in places["models"].items() if not read_only} <= {"models"}
    assert places["rounds"] == {"control": ("/data/rounds", False), "training": ("/data/rounds", False)}


# --- secrets --------------------------------------------------------------------------------------------------------


def referred(objects: list[Manifest]) -> dict[str, set[str]]:
    """Secrets and their keys that the objects ask for."""
    found: dict[str, set[str]] = {}

    def look(value: Any) -> None:
        if isinstance(value, list):
            for each in value:
                look(each)
        elif isinstance(value, dict):
            name = value.get("secretName") or (value.get("name") if "items" in value else None)
            if name and "items" in value:
                found.setdefault(name, set()).update(item["key"] for item in value["items"])
            for each in value.get("secretTargetRef", ()):
                found.setdefault(each["name"], set()).add(each["key"])
            for each in value.values():
                look(each)

    look(of_kind(objects, "Deployment", "StatefulSet", "Job", "TriggerAuthentication"))
    return found


def created(section: str) -> dict[str, set[str]]:
    """Secrets and their keys that the README's commands of a section make."""
    found: dict[str, set[str]] = {}
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    for command in re.findall(r"kubectl[^\n]* create secret generic ((?:[^\n]*\\\n)*[^\n]*)", text):
        name, *words = shlex.split(command.replace("\\\n", " ").partition("#")[0])
        found[name] = {word.partition("=")[2].partition("=")[0] for word in words if word.startswith("--from-")}
    return found


def test_the_readme_makes_exactly_the_secrets_that_are_asked_for() -> None:
    assert created("Try it") == referred(overlay("try"))
    assert created("In production") | created("Try it") == referred(overlay("production")) | created("Try it")


def test_on_object_storage_control_alone_may_publish_and_nobody_else_needs_a_shared_volume() -> None:
    objects = on_the_base("object-storage")
    assert created("Adapters on object storage").items() <= referred(objects).items()
    there = pods(objects)
    shared, keys = set(), {}
    for name, pod in there.items():
        for volume in pod["spec"]["volumes"]:
            if volume["name"] == "storage":
                keys[name] = [item["key"] for item in volume["secret"]["items"]]
            if volume.get("persistentVolumeClaim", {}).get("claimName") == "adapters":
                shared.add(name)
    assert shared == {"control"}
    assert keys == {name: ["publishing" if name == "control" else "reading"] for name in set(there) - {"labels"}}
    (sidecar,) = [each for each in there["vllm"]["spec"]["initContainers"] if each["name"] == "adapters"]
    assert sidecar["restartPolicy"] == "Always"
    into, engine = (each.partition("=")[2] for each in sidecar["args"][1:3])
    (vllm,) = there["vllm"]["spec"]["containers"]
    assert {mount["mountPath"] for mount in vllm["volumeMounts"] if mount["name"] == "adapters"} == {into}
    assert f"--port={engine.rpartition(':')[2]}" in vllm["args"]
    out = {(pod, port) for policy, pod, _, _, port in ways(objects, "Egress") if policy == "to-object-storage"}
    assert out == {(name, 443) for name in keys}
    (port,) = sidecar["ports"]
    scraped = {
        (pod, port) for policy, pod, _, _, port in ways(objects, "Ingress") if policy.startswith("adapters-from")
    }
    assert scraped == {("vllm", port["containerPort"])}
    (engines,) = [
        each for each in of_kind(on_the_base("podmonitors"), "PodMonitor") if each["metadata"]["name"] == "engines"
    ]
    assert port["name"] in [each["port"] for each in engines["spec"]["podMetricsEndpoints"]]


def test_no_secret_is_shipped_and_none_is_in_a_variable() -> None:
    for where, objects in everything().items():
        assert not of_kind(objects, "Secret"), where
        for pod in pods(objects).values():
            for container in containers(pod):
                assert not any("valueFrom" in each for each in container.get("env", ())), where
                assert "envFrom" not in container, where


# --- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_grace_is_above_what_a_stop_may_take(name: str) -> None:
    objects = overlay(name)
    config = yaml.safe_load(own_config(objects))
    for pod_name, pod in pods(objects).items():
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        for container in pod["spec"]["containers"]:
            variables = {each["name"]: each["value"] for each in container.get("env", ())}
            deadline = float(variables.get("SEMIEVOL__STOP_DEADLINE_S", config["stop_deadline_s"]))
            drain = {"semievold": deadline}.get(container["name"], 0)
            if pod_name == "gateway":
                admitted = DaemonConfig.model_fields["gateway"].default.timeout_s
                assert admitted + PARTING_S < float(variables["SEMIEVOL__GATEWAY__DRAIN_S"]) < deadline
            flags = [each for each in container.get("args", ()) if each.startswith("--shutdown-timeout=")]
            drain = max([drain, *(int(flag.partition("=")[2]) for flag in flags)])
            assert container["name"] != "vllm" or flags, pod_name
            assert grace > seconds_to_stop(container) + drain, pod_name


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_is_asked_through_a_service_waits_before_it_stops(name: str) -> None:
    objects = overlay(name)
    there = pods(objects)
    for service in of_kind(objects, "Service"):
        if (asked := service["metadata"]["name"]) in ("gateway", "vllm", "embedding"):
            assert any(seconds_to_stop(each) >= 5 for each in there[asked]["spec"]["containers"]), asked


# --- scalers --------------------------------------------------------------------------------------------------------


def test_the_scaler_of_the_intakes_reads_the_lag_that_the_daemon_makes() -> None:
    for objects in (overlay("production"), on_the_base("keda")):
        config = yaml.safe_load(own_config(objects))
        lag, held = named(objects, "ScaledObject", "intake")["spec"]["triggers"]
        assert lag["metadata"]["consumerGroup"] == group_of(config["workload"]["name"], "intake")
        assert lag["metadata"]["topic"] == DaemonConfig.model_fields["stream"].default.queries
        assert lag["metadata"]["bootstrapServers"].split(",") == config["stream"]["kafka"]["bootstrap_servers"]
        assert f'workload="{config["workload"]["name"]}"' in held["metadata"]["query"]
        partitions = config["stream"]["kafka"].get("partitions", 6)
        assert named(objects, "ScaledObject", "intake")["spec"]["maxReplicaCount"] <= partitions
