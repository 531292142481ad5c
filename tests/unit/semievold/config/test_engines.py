"""What a configuration may say about engines, their models and the trainer, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from semievol.commands.trainer import check_evolvable, trainer_of
from semievol.config.file import load_config
from semievol.config.generation import GenerationConfig
from semievol.config.method import SERVICE_SECTIONS, MethodConfig
from semievol.config.secrets import shown
from semievol.errors import ConfigError
from semievol.training.fine_tuning import FineTuningTrainer
from semievold.config.daemon import DaemonConfig
from semievold.config.generation import GenerationConfig as DaemonGeneration

ENDPOINT = {"kind": "openai", "base_url": "https://api.example/v1"}
DAEMON_FILE = """
workload: support
model: {name: m}
generation:
  kind: vllm
  replicas: ["http://a:8000"]
  max_adapters: 4
  adapters_path: /srv/adapters
  watch_interval_s: 2
  launch_settings: {port: 9000}
"""


def load(tmp_path: Path, text: str, **env: str) -> MethodConfig:
    (tmp_path / "c.yaml").write_text(text)
    return load_config(MethodConfig, tmp_path / "c.yaml", env, foreign=SERVICE_SECTIONS)


def method(**sections: Any) -> MethodConfig:
    return MethodConfig.model_validate({"model": {"name": "m"}, **sections})


def test_a_file_of_the_daemon_means_the_same_engine_to_a_run_on_files(tmp_path: Path) -> None:
    env = {"SEMIEVOL__GENERATION__API_KEY": "k", "SEMIEVOL__GENERATION__MAX_ADAPTERS": "5"}
    found = load(tmp_path, DAEMON_FILE, **env).generation
    served = load_config(DaemonConfig, tmp_path / "c.yaml", env).generation
    assert {key: getattr(served, key) for key in GenerationConfig.model_fields} == found.model_dump()
    assert (served.max_adapters, found.api_key) == (5, "k")


def test_every_key_that_the_daemon_adds_is_passed_over_by_a_run_on_files() -> None:
    added = DaemonGeneration.model_fields.keys() - GenerationConfig.model_fields.keys()
    assert {f"generation.{key}" for key in added} <= SERVICE_SECTIONS


@pytest.mark.parametrize("source", ["launch: true", "dns: 'http://vllm:8000'"])
def test_servers_that_only_the_daemon_finds_are_refused_with_the_fix(tmp_path: Path, source: str) -> None:
    text = f"workload: w\nmodel: {{name: m}}\ngeneration: {{kind: vllm, {source}}}"
    with pytest.raises(ConfigError, match=r"kind vllm wants replicas, .*launch and dns are the daemon's"):
        load(tmp_path, text)
    assert load(tmp_path, text, SEMIEVOL__GENERATION__REPLICAS='["http://a:1"]').generation.replicas == ("http://a:1",)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"generation": {"kind": "openai"}}, "kind openai wants base_url"),
        ({"generation": {"base_url": "http://a/v1"}}, "base_url: is for kind openai"),
        ({"generation": {"kind": "openai", "base_url": "a/v1"}}, "not a URL like"),
        ({"generation": {"kind": "openai", "base_url": "http://u:secret@a/v1"}}, "a URL must hold no password"),
        ({"generation": {"replicas": ["http://a:1"]}}, "replicas: is for kind vllm"),
        ({"generation": {"kind": "vllm", "replicas": ["http://a:1"], "model": "x"}}, "model: is for kind openai"),
        ({"generation": {"model": "x"}}, "generation.model: is for kind openai"),
        ({"models": {"Big One": ENDPOINT}}, "'Big One' is no usable name"),
        ({"models": {"big": {}}}, "big.model: missing"),
        (
            {"labelling": {"configurations": [{"name": "a", "model": "big"}]}},
            r"configurations\[0\].model: 'big' is not",
        ),
        ({"labelling": {"configurations": [{"name": "a", "template": "x"}]}}, "template must contain {question}"),
        ({"labelling": {"structured": True}, "generation": ENDPOINT}, "structured needs generation.kind vllm"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        method(**sections)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"generation": ENDPOINT}, "generation.kind: openai loads no adapters"),
        ({"models": {"big": {**ENDPOINT, "model": "x"}}}, "models: the daemon answers with `generation` alone"),
        (
            {"labelling": {"configurations": [{"name": "a", "adapter": "/x"}]}},
            r"configurations\[0\].adapter: the daemon labels with the serving adapter or with base, not with '/x'",
        ),
        ({"training": {"kind": "openai_api"}}, "training.kind: openai_api makes models that only their endpoint"),
    ],
)
def test_what_the_daemon_cannot_do_is_refused_and_not_ignored(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}, **sections})


def test_the_daemon_takes_seeds_variants_and_the_base_model() -> None:
    ours = {"name": "a", "seed": 3, "instruction": "x", "template": "{question}?", "adapter": "base"}
    config = DaemonConfig.model_validate(
        {"workload": "w", "model": {"name": "m"}, "labelling": {"configurations": [ours]}}
    )
    assert config.labelling.configurations[0].seed == 3


def test_keys_of_other_models_come_by_environment_and_are_never_shown(tmp_path: Path) -> None:
    text = "model: {name: m}\nmodels: {big_one: {kind: openai, base_url: 'http://a/v1', model: x}}"
    config = load(tmp_path, text, SEMIEVOL__MODELS__BIG_ONE__API_KEY="known-secret")
    assert config.models["big_one"].api_key == "known-secret"
    assert "known-secret" not in repr(config)
    with pytest.raises(ConfigError, match=r"models.big_one is a section, not a setting"):
        load(tmp_path, text, SEMIEVOL__MODELS__BIG_ONE="x")
    with pytest.raises(ConfigError, match=r"unknown key models.big_one.api_kee; did you mean api_key"):
        load(tmp_path, text, SEMIEVOL__MODELS__BIG_ONE__API_KEE="x")


@pytest.mark.parametrize("section", ["GENERATION", "EMBEDDING", "TRAINING__OPENAI_API"])
def test_a_key_loses_white_space_and_is_refused_unseen_where_no_header_takes_it(tmp_path: Path, section: str) -> None:
    variable = f"SEMIEVOL__{section}__API_KEY"
    config = load(tmp_path, "model: {name: m}", **{variable: "known-secret\n"})
    keys = {config.generation.api_key, config.embedding.api_key, config.training.openai_api.api_key}
    assert keys == {None, "known-secret"}
    with pytest.raises(ConfigError, match=r"api_key: holds characters that cannot stand") as caught:
        load(tmp_path, "model: {name: m}", **{variable: "known-secret\nX-Other: 1"})
    assert "known" not in str(caught.value)


@pytest.mark.parametrize("uri", ["https://me:known-secret@mlflow", "me:known-secret@mlflow:5000", "sqlite://u:p/x@h/d"])
def test_a_tracking_server_is_named_without_its_password(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match=r"mlflow_uri: must hold no user .* MLFLOW_TRACKING_PASSWORD") as caught:
        load(tmp_path, f"model: {{name: m}}\ntraining: {{mlflow_uri: '{uri}'}}")
    assert "known" not in str(caught.value)
    for fine in ("https://mlflow:5000/a", "sqlite:////srv/mlflow.db", "/srv/me@work/mlruns"):
        assert method(training={"mlflow_uri": fine}).training.mlflow_uri == fine


def test_no_password_of_an_address_is_shown() -> None:
    seen = shown({"url": "a://u:known@h/d", "mlflow_uri": "b://u:known@h", "base_url": "u:known@h", "uri": "c://h"})
    assert seen == {"url": "a://***@h/d", "mlflow_uri": "b://***@h", "base_url": "***@h", "uri": "c://h"}


def test_what_is_trained_must_be_answerable() -> None:
    with pytest.raises(ConfigError, match=r"set training.kind: openai_api"):
        check_evolvable(method(generation=ENDPOINT))
    with pytest.raises(ConfigError, match=r"generation.kind: .* set kind: openai and base_url"):
        check_evolvable(method(training={"kind": "openai_api"}))
    check_evolvable(method(generation=ENDPOINT, training={"kind": "openai_api"}))


def test_the_trainer_takes_address_and_key_of_the_endpoint_unless_it_has_its_own() -> None:
    both = {**ENDPOINT, "api_key": "secret-1"}
    shared = trainer_of(method(generation=both, training={"kind": "openai_api"}))
    assert isinstance(shared, FineTuningTrainer)
    assert (shared._base_url, shared._api_key, shared._model) == (ENDPOINT["base_url"], "secret-1", "m")
    elsewhere = {"kind": "openai_api", "openai_api": {"base_url": "https://tune.example/v1", "model": "t"}}
    own = trainer_of(method(generation=both, training=elsewhere))
    assert isinstance(own, FineTuningTrainer)
    # The key of one address is not told to another.
    assert (own._base_url, own._api_key, own._model) == ("https://tune.example/v1", None, "t")
    with pytest.raises(ConfigError, match=r"training.openai_api.base_url: missing"):
        trainer_of(method(training={"kind": "openai_api"}))
