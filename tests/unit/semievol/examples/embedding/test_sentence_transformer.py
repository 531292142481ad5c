from pathlib import Path

import pytest

from semievol.config.method import EmbeddingConfig
from semievol.errors import ConfigError
from semievol.examples.embedding.opening import build_embedder
from semievol.examples.embedding.sentence_transformer import package_model_directory


def test_a_package_that_is_not_installed_is_named_with_the_fix() -> None:
    with pytest.raises(ConfigError, match="'no_such_model' is not installed; pip install no-such-model"):
        package_model_directory("no_such_model")


def test_a_package_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="'httpx' holds no model"):
        package_model_directory("httpx")


def test_the_directory_of_a_model_in_a_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "some_model_package" / "data" / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (tmp_path / "some_model_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (model / "1_Pooling" / "config.json").write_text("{}")
    (model / "modules.json").write_text("[]")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_model_directory("some_model_package") == model


def test_a_directory_that_does_not_exist_is_not_taken_for_a_hub_name() -> None:
    with pytest.raises(ConfigError, match=r"the directory './nowhere' does not exist"):
        build_embedder(EmbeddingConfig(name="./nowhere"))
