"""No secret is shown, wherever it stands in a configuration or a message, and nothing else is hidden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from semievol.config.file import load_config
from semievol.config.secrets import HIDDEN, hidden, is_secret_name, shown
from semievol.errors import ConfigError
from semievold.config.daemon import DaemonConfig

SECRET = "known-to-the-operator"

TEXTS = [
    f"postgresql+psycopg://me:{SECRET}@db:5432/state",
    f"postgresql://me:with/a/slash@{SECRET}@db/state",
    f"https://host/v1?api_key={SECRET}&x=1",
    f"https://host/v1?x=1&key={SECRET}#there",
    f"https://host/v1?access_token={SECRET}",
    f"postgresql://host/db?user=me&password={SECRET}&sslmode=require",
    f"host=db user=me password={SECRET} dbname=x",
    f"amqp://{SECRET}@host",
    f"kafka://a:{SECRET}@one:9092,kafka://a:{SECRET}@two:9092",
    f'org.apache.kafka.common.security.plain.PlainLoginModule required username="me" password="{SECRET}";',
    f"vllm serve --api-key {SECRET} --port 1",
    f"vllm serve --api-key={SECRET}",
    f"vllm serve --api_key '{SECRET}'",
    f"--hf-token {SECRET}",
    f"HF_TOKEN={SECRET} vllm",
    f'--override {{"api_key": "{SECRET}", "n": 1}}',
    f"Authorization: Bearer {SECRET}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_in_texts_are_hidden(text: str) -> None:
    seen = hidden(text)
    assert SECRET not in seen
    assert HIDDEN in seen
    assert hidden(seen) == seen
    for place in ({"any": text}, {"url": text}, {"a": {"b": [{"c": text}]}}, {"items": [text]}):
        assert SECRET not in json.dumps(shown(place))


@pytest.mark.parametrize(
    "text",
    [
        "http://10.0.0.1:8000/v1",
        "http://host/v1?limit=10&token_limit=3",
        "--max-num-batched-tokens 4096 --tokenizer /srv/model --max-tokens=3",
        "task.instruction: answer with one token, and no password",
        "send the header `Authorization: Bearer TOKEN`",
        "me@example.org",
        "monkey=1 keyboard: 3",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert hidden(text) == text
    assert shown({"text": text, "items": text.split()}) == {"text": text, "items": text.split()}


def test_values_of_flags_are_hidden_where_they_stand_alone() -> None:
    arguments = ["--port", "1", "--api-key", SECRET, "--hf-token", SECRET, "--trust", f"--key-password={SECRET}", "x"]
    seen = shown({"command": ["env", f"HF_TOKEN={SECRET}", "vllm"], "arguments": arguments})
    assert SECRET not in json.dumps(seen)
    assert seen["arguments"] == [
        *("--port", "1", "--api-key", HIDDEN, "--hf-token", HIDDEN, "--trust", f"--key-password={HIDDEN}", "x")
    ]


def test_names_of_secrets_are_known_and_others_are_not_taken_for_them() -> None:
    secret = ("token", "api_key", "embeddings_token", "sasl_password", "password", "hf-token", "client.secret")
    other = ("max_tokens", "tokens", "tokenizer", "max_answer_tokens", "key", "keyboard", "design", "passwords_file")
    assert [name for name in secret if not is_secret_name(name)] == []
    assert [name for name in other if is_secret_name(name)] == []


def test_a_configuration_shows_none_of_the_secrets_in_it() -> None:
    config = DaemonConfig.model_validate(
        {
            "workload": "w",
            "model": {"name": "m"},
            "api": {"token": f"{SECRET}-1"},
            "store": {"url": f"postgresql+psycopg://h/db?user=me&password={SECRET}"},
            "stream": {"kind": "kafka", "kafka": {"bootstrap_servers": ["kafka:9092"]}},
            "generation": {
                "launch_settings": {
                    "command": ["env", f"VLLM_API_KEY={SECRET}", "vllm"],
                    "arguments": ["--hf-token", SECRET, f"--ssl-key-password={SECRET}", "--port", "1"],
                    "environment": {"ANYTHING": SECRET},
                }
            },
        }
    )
    assert SECRET not in json.dumps(config.public())
    assert config.public()["gateway"]["max_tokens"] == 4096  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong",
    [
        {"generation": {"launch_settings": {"arguments": ["--hf-token", 12345678]}}},
        {"generation": {"launch_settings": {"environment": {"HF_TOKEN": 12345678}}}},
        {"generation": {"launch_settings": {"command": 12345678}}},
        {"generation": {"kind": "vllm", "replicas": ["http://host:8000?api_key=12345678"]}},
        {"generation": {"kind": "vllm", "replicas": ["http://me:12345678@host:8000"]}},
        {"generation": {"kind": "vllm", "dns": "http://host:8000/?token=12345678"}},
        {"generation": {"launch_settings": {"arguments": ["--api-key=12345678"]}}},
        {"generation": {"launch_settings": {"arguments": ["--api_key", "12345678"]}}},
        {"gateway": {"token": 12345678}},
        {"index": {"url": "http://host?api-key=12345678"}},
    ],
    ids=str,
)
def test_an_error_about_a_setting_quotes_no_secret(tmp_path: Path, wrong: dict[str, object]) -> None:
    file = tmp_path / "semievol.yaml"
    file.write_text(yaml.safe_dump({"workload": "w", "model": {"name": "m"}, **wrong}))
    with pytest.raises(ConfigError) as caught:
        load_config(DaemonConfig, file, {})
    assert "12345678" not in str(caught.value)
