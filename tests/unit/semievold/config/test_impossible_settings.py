"""Settings that can never work are refused when the file is read, with the key and the fix."""

from typing import Any

import pytest
from pydantic import ValidationError

from semievol.config.method import GateConfig, ModelConfig, TrainingConfig
from semievold.config.daemon import DaemonConfig

REPLICAS = {"kind": "vllm", "replicas": ["http://h:1"]}
LAUNCH = {"kind": "vllm", "launch": True}
KAFKA = {"kind": "kafka", "kafka": {"bootstrap_servers": "h:9092"}}
JOBS = {"kind": "kubernetes", "template": "job.yaml"}
NO_PORTS = ("99999", "0", "x")

IMPOSSIBLE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"training": {"share_gpu": "sleep"}}, "training.share_gpu: sleep is for vLLM servers, and generation.kind local"),
    (
        {"generation": REPLICAS, "training": {"share_gpu": "sleep", "share_gpu_with": ["http://other:1"]}},
        "training.share_gpu_with: http://other:1 is none of generation.replicas (http://h:1)",
    ),
    (
        {"generation": REPLICAS, "training": {"share_gpu_with": ["http://h:1"]}},
        "share_gpu_with: is for share_gpu; set share_gpu: sleep",
    ),
    (
        {"generation": REPLICAS, "training": {"share_gpu": "sleep", "launcher": {**JOBS, "queue": "q"}}},
        "the servers would sleep while the Job waits in the queue",
    ),
    ({"model": {"name": "m", "dtype": "float16", "device": "cpu"}}, "float16 is not for a CPU"),
    ({"model": {"name": "m", "dtype": "float16", "device": "cuda"}}, "float16 gradients underflow"),
    ({"model": {"name": "m", "device": "gpu"}}, "model.device"),
    ({"training": {"batch_size": 6, "gradient_accumulation": 4}}, "take a multiple of 4"),
    ({"training": {"batch_size": 8, "processes": 3}}, "take a multiple of 3"),
    (
        {"task": {"labels": ["a", "b"]}, "labelling": {"justify": False, "panel": {}}},
        "labelling.panel: the daemon trains nothing beside its rounds",
    ),
    ({"training": {"adapt_epochs": 1}}, "training.adapt_epochs: the daemon's rounds do not read the queries' text yet"),
    ({"training": {"epochs": float("inf")}}, "training.epochs"),
    ({"generation": {"timeout_s": float("nan")}}, "generation.timeout_s"),
    ({"api": {"token": "a token of several words"}}, "holds white space"),
    ({"gateway": {"token": "a-token-of-\n-two-lines"}}, "cannot stand in an HTTP header"),
    ({"api": {"token": "         \n         "}}, "is empty"),
    ({"task": {"labels": ["Refund", "refund "]}}, "differ only in case"),
    ({"task": {"labels": ["caf\u00e9", "cafe\u0301"]}}, "in how the same characters are stored"),
    ({"task": {"labels": ["order-status", "order status", "x"]}}, "differ only in case"),
    ({"task": {"labels": ["a", "b"], "answer_template": "<{answer}>", "answer_pattern": r"#(\\w)"}}, "is read as None"),
    ({"gate": {"alpha": 0.001, "min_holdout": 5}}, "raise it to 10"),
    ({"selection": {"risk": {"budget": 0.05}}, "rounds": {"refresh": False}}, "rounds.refresh: false leaves labels of"),
    ({"embedding": {"kind": "openai"}}, "base_url: missing"),
    ({"embedding": {"kind": "openai", "base_url": "api.example.com"}}, "is not a URL"),
    ({"index": {"url": "qdrant:6333"}}, "is not a URL"),
    *(({"index": {"url": f"http://qdrant:{port}"}}, "index.url") for port in NO_PORTS),
    *(
        ({"embedding": {"kind": "openai", "base_url": f"http://e:{port}/v1"}}, "embedding.base_url")
        for port in NO_PORTS
    ),
    *(({"gateway": {"embeddings_url": f"http://e:{port}"}}, "gateway.embeddings_url") for port in NO_PORTS),
    *(({"generation": {"kind": "vllm", "dns": f"http://h:{port}"}}, "generation.dns: ") for port in NO_PORTS),
    *(
        ({"generation": {"kind": "vllm", "replicas": [f"http://h:{port}"]}}, "generation.replicas: ")
        for port in NO_PORTS
    ),
    *(
        ({"stream": {"kind": "kafka", "kafka": {"bootstrap_servers": f"h:{port}"}}}, "a port from 1 to 65535")
        for port in NO_PORTS
    ),
    ({"seed": 2**64}, "seed"),
    ({"trigger": {"min_examples": 10**30}}, "should be less than or equal to 9223372036854775807"),
    ({"trigger": {"interval_s": 1e300}}, "is more than a hundred years"),
    ({"review": {"keep_days": 1e9}}, "is more than a hundred years"),
    ({"api": {"port": True}}, "true or false (YAML's yes, no, on, off) is none"),
    ({"rollout": {"canary": [0.1, True]}}, "true or false (YAML's yes, no, on, off) is none"),
    ({"task": {"form": "multiple_choice", "answer_index": True}}, "true or false"),
    ({"api": {"host": ""}}, "write 0.0.0.0 where that is meant"),
    ({"gateway": {"host": "http://127.0.0.1"}}, "is no address to listen on"),
    ({"embedding": {"name": " "}}, "is empty; give a name"),
    ({"artifacts": {"directory": "~nobody-of-this-name/x"}}, "~nobody-of-this-name is no user of this machine"),
    ({"artifacts": {"directory": "a\0b"}}, "has a NUL character"),
    ({"artifacts": {"directory": "x" * 256}}, "a name of more than 255 bytes"),
    ({"workload": {"name": "w", "alias": "two words"}}, "workload.alias"),
    ({"workload": {"name": "w", "alias": ""}}, "workload.alias"),
    ({"stream": {**KAFKA, "queries": "my queries"}}, "is no name of a Kafka topic"),
    ({"store": {"url": "postgresql+psycopg://u@h/d"}}, "local keeps its topics in the state's SQLite file"),
    ({"generation": {**LAUNCH, "launch_settings": {"port": 8320}}}, "is that of api or gateway too"),
    ({"generation": {**LAUNCH, "launch_settings": {"max_model_len": 16}}}, "leaves no room"),
    ({"generation": REPLICAS, "training": {"rank": 1024}}, "ranks up to 512"),
    ({"rollout": {"canary": [0.25, 0.05]}}, "the shares 0.25, 0.05 do not rise; order them"),
    ({"rollout": {"canary": [0.05, 5]}}, "5 is no share of the clients; give shares above 0 and at most 1"),
    ({"rollout": {"canary": [0.0, 1]}}, "0 is no share of the clients"),
)


@pytest.mark.parametrize(("sections", "said"), IMPOSSIBLE)
def test_a_setting_that_can_never_work_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}, **sections})
    where = ".".join(str(part) for part in refused.value.errors()[0]["loc"])
    assert said in where or said in str(refused.value)


def test_a_password_that_is_taken_for_a_port_is_not_shown() -> None:
    sections = {"generation": {"kind": "vllm", "dns": "http://user:hunter/2@vllm:8000"}}
    with pytest.raises(ValidationError) as refused:
        DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}, **sections})
    assert "hunter" not in "".join(each["msg"] for each in refused.value.errors())


def test_a_token_may_end_as_the_file_that_held_it() -> None:
    """`echo secret > token` writes a line break, which no client sends."""
    config = DaemonConfig.model_validate(
        {
            "workload": "w",
            "model": {"name": "m"},
            "api": {"token": "token-of-the-tests\n"},
            "gateway": {"embeddings_token": "another\r\n"},
            "index": {"api_key": " key\n"},
        }
    )
    assert (config.api.token, config.gateway.embeddings_token, config.index.api_key) == (
        "token-of-the-tests",
        "another",
        "key",
    )


def test_what_can_work_is_let_through() -> None:
    assert ModelConfig(name="m", dtype="float16", device="cuda:1").dtype == "float16"
    assert TrainingConfig(batch_size=8, gradient_accumulation=2, processes=2).batch_size == 8
    assert TrainingConfig(kind="openai_api", batch_size=7, processes=2).batch_size == 7
    assert GateConfig(alpha=0.001, min_holdout=10).min_holdout == 10
