from pathlib import Path

import pytest
from pydantic import ValidationError

from semievol.config.file import load_config
from semievol.errors import ConfigError
from semievold.config.daemon import DaemonConfig
from semievold.config.streams import KafkaSettings, StreamSettings

SERVERS = ["kafka.example.com:9092"]


def complaint(**settings: object) -> str:
    with pytest.raises(ValidationError) as caught:
        KafkaSettings(**settings)  # type: ignore[arg-type]
    return str(caught.value)


def test_kafka_needs_brokers() -> None:
    with pytest.raises(ValidationError, match=r"kafka\.bootstrap_servers"):
        StreamSettings(kind="kafka")
    assert StreamSettings(kind="kafka", kafka=KafkaSettings(bootstrap_servers=("b:9092",))).kind == "kafka"


def test_brokers_may_be_one_text_as_the_environment_gives_it() -> None:
    settings = KafkaSettings.model_validate({"bootstrap_servers": "a:9092, b:9093"})
    assert settings.bootstrap_servers == ("a:9092", "b:9093")
    assert "host:port" in complaint(bootstrap_servers=["kafka.example.com"])
    assert "host:port" in complaint(bootstrap_servers=["kafka.example.com:plain"])


def test_wrong_combinations_name_the_keys_and_the_fix() -> None:
    assert "sasl_username and sasl_password" in complaint(security_protocol="SASL_SSL", sasl_username="u")
    assert "SEMIEVOL__STREAM__KAFKA__SASL_PASSWORD" in complaint(security_protocol="SASL_PLAINTEXT")
    assert "security_protocol SASL_SSL" in complaint(sasl_username="u", sasl_password="secret-of-the-tests")
    assert "security_protocol SSL" in complaint(tls_ca="ca.pem")
    assert "tls_certificate" in complaint(security_protocol="SSL", tls_key="key.pem")
    assert "group_instance_id" in complaint(group_instance_id="two words")


def test_transactions_need_kafka() -> None:
    with pytest.raises(ValidationError, match=r"kafka\.exactly_once needs kind kafka"):
        StreamSettings(kafka=KafkaSettings(exactly_once=True))
    assert "transaction_timeout_s" in complaint(transaction_timeout_s=1)


def test_the_password_is_never_shown() -> None:
    kafka = {
        "bootstrap_servers": SERVERS,
        "security_protocol": "SASL_SSL",
        "sasl_username": "u",
        "sasl_password": "secret-of-the-tests",
    }
    config = DaemonConfig.model_validate(
        {"workload": "w", "model": {"name": "m"}, "stream": {"kind": "kafka", "kafka": kafka}}
    )
    assert "secret-of-the-tests" not in repr(config)
    assert "secret-of-the-tests" not in str(config.public())


def test_an_error_beside_a_password_does_not_show_it(tmp_path: Path) -> None:
    file = tmp_path / "semievol.yaml"
    for wrong in ("partitions: 0", "tls_ca: ca.pem", "sasl_username: null", "session_timeout: 3"):
        file.write_text(
            "workload: w\nmodel: {name: m}\nstream:\n  kind: kafka\n  kafka:\n    bootstrap_servers: [b:9092]\n"
            f"    security_protocol: SASL_PLAINTEXT\n    sasl_password: secret-of-the-tests\n    {wrong}\n"
        )
        with pytest.raises(ConfigError) as caught:
            load_config(DaemonConfig, file, {})
        assert "secret-of-the-tests" not in str(caught.value)
