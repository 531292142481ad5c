"""What deploy/ ships: it parses, fits the code, and is as closed as it says. No engine is needed: files are read."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol.config.file import load_config
from semievold.config.daemon import ROLES, DaemonConfig
from semievold.web.server import PARTING_S

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = sorted(DEPLOY.glob("*Dockerfile"))
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")
ENDS_BY_ITSELF = {"models"}
ASKS_NO_KEY = {"vllm-gpu", "vllm-cpu", "embedding"}


def example_environment() -> dict[str, str]:
    lines = (DEPLOY / ".env.example").read_text("utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: "0123456789abcdef" if value == "change-me" else value for name, value in values.items()}


def filled(text: str, values: Mapping[str, str]) -> str:
    """What Compose makes of a value."""
    return VARIABLE.sub(lambda found: values.get(found[1]) or found[3] or "", text)


def named(pattern: str) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in SERVICES.items() if fnmatch.fnmatch(name, pattern)}


@pytest.mark.parametrize(
    "file", sorted(path for suffix in ("*.yaml", "*.yml") for path in DEPLOY.rglob(suffix)), ids=lambda path: path.name
)
def test_every_shipped_yaml_file_parses(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text("utf-8")), dict)


# --- the daemon in it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({"intake", "labels", "gateway", *named("control-*")}))
def test_the_shipped_configuration_is_valid_in_the_environment_of_every_role(name: str) -> None:
    values = example_environment()
    environment = {key: filled(str(value), values) for key, value in SERVICES[name]["environment"].items()}
    config = load_config(DaemonConfig, DEPLOY / "semievol.yaml", environment)
    assert config.stream.kind == "kafka"
    assert config.generation.kind == "vllm"
    assert config.store_url.startswith("postgresql+psycopg://semievol:0123456789abcdef@postgres:")
    assert "0123456789abcdef" not in json.dumps(config.public())


def test_every_role_runs_in_both_profiles() -> None:
    for profile in ("cpu", "gpu"):
        running = [
            service["command"][0]
            for service in SERVICES.values()
            if str(service.get("image", "")).startswith("semievol-")
            and "command" in service
            and profile in service.get("profiles", [profile])
        ]
        assert set(ROLES) <= set(running)


def test_the_engine_sees_the_adapters_where_the_daemon_has_them_and_cannot_write_them() -> None:
    config = yaml.safe_load((DEPLOY / "semievol.yaml").read_text("utf-8"))
    place = f"adapters:{config['artifacts']['directory']}/adapters"
    assert all(place in SERVICES[name]["volumes"] for name in ("intake", "gateway", "control-cpu", "control-gpu"))
    assert all(f"{place}:ro" in service["volumes"] for service in named("vllm-*").values())


def test_the_engine_takes_the_rank_that_is_trained_and_the_versions_that_are_loaded() -> None:
    config = DaemonConfig.model_validate(yaml.safe_load((DEPLOY / "semievol.yaml").read_text("utf-8")))
    flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in SERVICES["vllm-cpu"]["command"])
    assert int(flags["max-lora-rank"]) >= config.training.rank
    assert int(flags["max-loras"]) > config.generation.max_adapters
    assert flags["served-model-name"] == config.generation.base_name
    gpu = {*SERVICES["vllm-gpu"]["command"]} - {flag for flag in SERVICES["vllm-gpu"]["command"] if "gpu" in flag}
    assert gpu == {*SERVICES["vllm-cpu"]["command"]} - {"--no-enable-chunked-prefill"}


def test_a_stop_lets_finish_what_runs() -> None:
    config = DaemonConfig.model_validate(yaml.safe_load((DEPLOY / "semievol.yaml").read_text("utf-8")))
    variables = SERVICES["gateway"]["environment"]
    drain_s = float(variables["SEMIEVOL__GATEWAY__DRAIN_S"])
    assert config.gateway.timeout_s + PARTING_S < drain_s < float(variables["SEMIEVOL__STOP_DEADLINE_S"])
    for name, service in SERVICES.items():
        grace_s = float(service.get("stop_grace_period", "10s").removesuffix("s"))
        if "intake" in service.get("command", []) or name in ("gateway", "labels") or name.startswith("control-"):
            own = service["environment"].get("SEMIEVOL__STOP_DEADLINE_S", config.stop_deadline_s)
            assert grace_s > float(own), name
        if name in ASKS_NO_KEY:  # vLLM
            (flag,) = [each for each in service["command"] if each.startswith("--shutdown-timeout=")]
            assert grace_s > float(flag.partition("=")[2]) > 0, name


# --- closed by default ----------------------------------------------------------------------------------------------


def test_every_image_is_pinned_by_an_exact_tag() -> None:
    values = example_environment()
    for name, service in SERVICES.items():
        _, _, tag = filled(service["image"], values).partition(":")
        assert re.match(r"v?\d+\.\d+(\.\d+)?", tag), f"{name}: {service['image']}"


def test_every_service_has_a_health_check_and_limits() -> None:
    for name, service in SERVICES.items():
        image_has_one = service["image"].startswith("semievol-")
        assert image_has_one or "test" in service["healthcheck"], name
        assert service.get("healthcheck", {}).get("disable", False) is (name in ENDS_BY_ITSELF), name
        assert {"mem_limit", "cpus", "pids_limit"} <= service.keys(), name


def test_every_service_is_hardened() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name
        assert service.get("user", "1") not in ("0", "root"), name


def test_no_port_is_published_beyond_this_machine_by_default() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert filled(port, {}).startswith("127.0.0.1:"), name
            assert filled(port, example_environment()).startswith("127.0.0.1:"), name


def test_servers_whose_administrative_paths_ask_no_key_are_reached_by_the_daemon_alone() -> None:
    assert COMPOSE["networks"]["inference"] == {"internal": True}
    beside = {name for name, service in SERVICES.items() if "inference" in service["networks"]}
    assert beside == ASKS_NO_KEY | {"intake", "labels", "gateway", "control-cpu", "control-gpu"}
    for name in ASKS_NO_KEY:
        assert set(SERVICES[name]["networks"]) == {"inference"}
        assert "ports" not in SERVICES[name]


def test_every_variable_of_the_composition_is_explained_in_the_example_and_no_other() -> None:
    used = {found[1] for found in VARIABLE.finditer((DEPLOY / "compose.yaml").read_text("utf-8"))}
    assert used == example_environment().keys() - {"COMPOSE_PROFILES"}


def test_a_default_is_the_same_in_the_composition_and_in_the_example() -> None:
    values = example_environment()
    for found in VARIABLE.finditer((DEPLOY / "compose.yaml").read_text("utf-8")):
        if found[2] == "-":
            assert values[found[1]] == found[3], found[0]


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_has_pinned_bases_a_fixed_user_and_a_health_check(file: Path) -> None:
    text = file.read_text("utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001:10001"]
    assert "HEALTHCHECK" in text


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_copies_what_the_repository_has_and_the_ignore_file_lets_through(file: Path) -> None:
    let_through = {
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text("utf-8"), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert source in let_through


def test_images_install_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for file in DOCKERFILES:
        (asked,) = re.findall(r"^ARG EXTRAS=(\S+)", file.read_text("utf-8"), re.MULTILINE)
        assert set(asked.split(",")) <= extras.keys()
    assert "train" not in re.findall(r"^ARG EXTRAS=(\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[0]


# --- watching -------------------------------------------------------------------------------------------------------


def test_grafana_begins_with_a_dashboard_that_it_has() -> None:
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    (place,) = [each for each in SERVICES["grafana"]["volumes"] if f":{home.parent}:" in each]
    assert (DEPLOY / place.partition(":")[0] / home.name).exists()


def test_prometheus_scrapes_every_role() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    (names,) = [each["names"] for job in scraped for each in job.get("dns_sd_configs", [])]
    assert set(names) == set(ROLES)
