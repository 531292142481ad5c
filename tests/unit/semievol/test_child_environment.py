"""What children get of the environment: what they need, what a setting names, and no setting of ours."""

from __future__ import annotations

import pytest

from semievol.child_environment import MODEL_SERVER, TRAINER, inherited

NEEDED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "CUDA_VISIBLE_DEVICES",
    "NCCL_DEBUG",
    "HF_HOME",
    "TORCH_HOME",
    "OMP_NUM_THREADS",
)
NEEDED += ("MALLOC_ARENA_MAX", "XDG_CACHE_HOME", "TMPDIR", "LD_LIBRARY_PATH", "HTTPS_PROXY", "no_proxy", "PYTHONPATH")
NEEDED += ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "CC", "CXX", "CPATH")
SECRET = ("SEMIEVOL__GATEWAY__TOKEN", "SEMIEVOL__STORE__URL", "SEMIEVOL__STREAM__KAFKA__SASL_PASSWORD")
SECRET += ("PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "DATABASE_URL", "POSTGRES_PASSWORD", "GITHUB_TOKEN")


@pytest.mark.parametrize("kind", [(), TRAINER, MODEL_SERVER], ids=["any", "trainer", "server"])
def test_children_get_what_they_need_and_no_secret(kind: tuple[str, ...]) -> None:
    environment = dict.fromkeys((*NEEDED, *SECRET), "x")
    assert inherited(kind, environment).keys() == set(NEEDED)


def test_a_trainer_gets_no_key_of_a_server_nor_a_server_the_trackers_password() -> None:
    environment = {"VLLM_API_KEY": "x", "MLFLOW_TRACKING_PASSWORD": "y"}
    assert inherited(TRAINER, environment) == {"MLFLOW_TRACKING_PASSWORD": "y"}
    assert inherited(MODEL_SERVER, environment) == {"VLLM_API_KEY": "x"}


def test_a_setting_adds_names_and_beginnings_but_never_our_settings() -> None:
    environment = dict.fromkeys(("AWS_A", "AWS_B", "OTHER", "MORE", "SEMIEVOL__API__TOKEN"), "x")
    assert inherited(("AWS_*", "OTHER", "SEMIEVOL__API__TOKEN", "SEMIEVOL_*", "*"), environment).keys() == {
        *("AWS_A", "AWS_B", "OTHER")
    }
