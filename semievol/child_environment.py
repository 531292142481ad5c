"""What of its environment a program hands to the programs that it starts: what they need, and no secret of its own.

Owns the names. A name that is not here gets through by a setting (`training.inherit`,
`generation.launch_settings.inherit`). Invariant: no setting of ours (`SEMIEVOL__...`), and so no token and no password,
is handed on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TMPDIR", "TEMP", "TMP", "TZ", "TERM", "LANG", "LANGUAGE"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SYSTEMROOT", "WINDIR"),
        *("HUGGING_FACE_HUB_TOKEN", "CC", "CXX", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH"),  # Triton compiles
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TOKENIZERS_PARALLELISM", "SEMIEVOL_UMASK"),
    }
)
PREFIXES = (
    *("LC_", "XDG_", "PYTHON", "OMP_", "MKL_", "OPENBLAS_", "GOMP_", "KMP_", "MALLOC_", "GLIBC_"),
    *("CUDA", "NVIDIA_", "NCCL_", "CUBLAS", "CUDNN", "HIP_", "ROCR_", "ROCM_", "HSA_", "GLOO_", "UCX_"),
    *("TORCH", "PYTORCH_", "TRITON", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "SAFETENSORS_", "ACCELERATE_"),
    "COVERAGE_",
)
TRAINER = ("MLFLOW_*", "TENSORBOARD_*")
"""What a training may need besides."""
MODEL_SERVER = ("VLLM_*", "RAY_*")
"""What a model server may need besides."""


def inherited(also: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that a child gets.

    Args:
        also: further names, or beginnings of names that end with `*`.
        environment: the program's own by default.
    """
    prefixes = PREFIXES + tuple(name[:-1] for name in also if name.endswith("*") and name != "*")
    names = NAMES.union(also)
    return {
        name: value
        for name, value in (os.environ if environment is None else environment).items()
        if (name in names or name.startswith(prefixes)) and not name.startswith("SEMIEVOL__")
    }
