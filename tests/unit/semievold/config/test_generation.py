import pytest
from pydantic import ValidationError

from semievold.config.daemon import DaemonConfig
from semievold.config.generation import GenerationConfig, lora_rank
from semievold.serving.vllm_process import vllm_command


def test_the_rank_is_rounded_up_to_what_vllm_allows() -> None:
    assert [lora_rank(rank) for rank in (1, 2, 8, 16, 17, 300)] == [1, 8, 8, 16, 32, 320]
    with pytest.raises(ValueError, match=r"training\.rank: vLLM serves ranks up to 512, not 600"):
        lora_rank(600)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kind": "vllm"}, "exactly one of replicas"),
        ({"kind": "vllm", "launch": True, "dns": "http://vllm:8000"}, "dns, launch given"),
        ({"replicas": ["http://a:1"]}, "set generation.kind: vllm"),
        ({"kind": "vllm", "replicas": ["http://a:1/v1"]}, "no path, no /v1"),
        ({"kind": "vllm", "replicas": ["a:1"]}, "not an address"),
        ({"kind": "vllm", "replicas": ["http://a:1", "http://a:1/"]}, "listed twice"),
        ({"kind": "vllm", "dns": "http://user:secret@a:1"}, "hold no password"),
        ({"kind": "vllm", "replicas": ["http://a:1"], "adapters_path": "adapters"}, "is relative"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        GenerationConfig.model_validate(settings)


def launched(share_gpu: str | None = None, **launch: object) -> DaemonConfig:
    return DaemonConfig.model_validate(
        {
            "workload": "support",
            "model": {"name": "/models/llama", "dtype": "bfloat16"},
            "training": {"rank": 12, "share_gpu": share_gpu},
            "generation": {"kind": "vllm", "launch": True, "launch_settings": launch},
        }
    )


def test_a_launched_server_gets_every_flag_that_runtime_lora_needs() -> None:
    command = vllm_command(launched(command=["vllm-python", "-m", "server"], arguments=["--enforce-eager"], port=9000))
    text = " ".join(command)
    assert text.startswith("vllm-python -m server --model /models/llama --served-model-name base --dtype bfloat16")
    assert "--host 127.0.0.1 --port 9000" in text
    assert "--enable-lora --max-loras 4 --max-cpu-loras 8 --max-lora-rank 16" in text
    assert command[-1] == "--enforce-eager"


def test_a_launched_server_can_sleep_where_it_shares_its_gpu() -> None:
    assert "--enable-sleep-mode" in vllm_command(launched("sleep"))
    assert "--enable-sleep-mode" not in vllm_command(launched())


def test_a_launched_server_must_be_able_to_load_what_is_trained() -> None:
    with pytest.raises(ValidationError, match=r"max_lora_rank: 8 is below training\.rank 12"):
        launched(max_lora_rank=8)


def test_the_key_of_the_servers_is_never_shown() -> None:
    settings = GenerationConfig(kind="vllm", replicas=("http://a:1",), api_key="very-secret")
    assert "very-secret" not in repr(settings)


def test_answers_from_a_closed_set_need_a_server() -> None:
    with pytest.raises(ValidationError, match=r"labelling\.structured needs generation\.kind vllm"):
        DaemonConfig.model_validate({"workload": "x", "model": {"name": "m"}, "labelling": {"structured": True}})
