"""A path in a configuration is where its reader thinks it is, wherever the command is run."""

import os
from pathlib import Path

import pytest

from semievol.config.file import load_config
from semievol.config.method import MethodConfig
from semievol.errors import ConfigError
from semievold.config.daemon import DaemonConfig
from semievold.store.database import Database

TEXT = "workload: w\nmodel: {name: m}\n"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is not the configuration's."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def configured(directory: Path, text: str = "", env: dict[str, str] | None = None) -> DaemonConfig:
    directory.mkdir(exist_ok=True)
    (directory / "c.yaml").write_text(TEXT + text)
    return load_config(DaemonConfig, directory / "c.yaml", env or {})


def test_a_relative_path_is_of_the_files_directory(tmp_path: Path, elsewhere: Path) -> None:
    there = tmp_path / "app"
    text = "artifacts: {directory: state}\nindex: {path: ../index}\ntraining: {tensorboard_directory: /abs}\n"
    config = configured(there, text)
    assert config.artifacts.directory == there / "state"
    assert config.index.path == tmp_path / "index"
    assert config.training.tensorboard_directory == Path("/abs")
    assert configured(there).artifacts.directory == there / "semievol-data"  # the default as well
    os.chdir(there)
    assert configured(there, text).artifacts.directory.resolve() == there / "state"


def test_a_relative_path_of_a_variable_is_of_the_working_directory(tmp_path: Path, elsewhere: Path) -> None:
    config = configured(tmp_path / "app", env={"SEMIEVOL__ARTIFACTS__DIRECTORY": "state"})
    assert config.artifacts.directory.resolve() == elsewhere / "state"


def test_what_lies_where_an_earlier_version_looked_is_not_passed_over(tmp_path: Path, elsewhere: Path) -> None:
    (elsewhere / "semievol-data").mkdir()
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path / "app")
    assert "artifacts.directory: semievol-data is taken from the directory of the configuration" in str(caught.value)
    assert str(tmp_path / "app" / "semievol-data") in str(caught.value)
    assert str(elsewhere / "semievol-data") in str(caught.value)
    (tmp_path / "app" / "semievol-data").mkdir()
    assert configured(tmp_path / "app").artifacts.directory == tmp_path / "app" / "semievol-data"


def test_a_model_is_a_path_only_where_it_begins_as_one(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {name: ./m, chat_template: t.jinja}\nembedding: {name: org/m}\n")
    config = load_config(MethodConfig, tmp_path / "c.yaml", {})
    assert (config.model.name, config.embedding.name) == (str(tmp_path / "m"), "org/m")
    assert config.model.chat_template == tmp_path / "t.jinja"


def test_the_home_directory_is_meant_by_its_sign(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = configured(tmp_path, "artifacts: {directory: ~/state}\nindex: {path: '~/i'}\n")
    assert (config.artifacts.directory, config.index.path) == (Path("/home/me/state"), Path("/home/me/i"))
    config = configured(tmp_path, env={"SEMIEVOL__ARTIFACTS__DIRECTORY": "~/s", "SEMIEVOL__MODEL__NAME": "~/m"})
    assert (config.artifacts.directory, config.model.name) == (Path("/home/me/s"), "/home/me/m")


def test_a_configuration_from_a_pipe_has_no_directory(tmp_path: Path, elsewhere: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, TEXT.encode())
    os.close(writing)
    config = load_config(DaemonConfig, Path(f"/dev/fd/{reading}"), {})
    os.close(reading)
    assert config.artifacts.directory.resolve() == elsewhere / "semievol-data"


@pytest.mark.parametrize("name", ["50%", "a%41", "what?", "x?mode=ro", "#1", "a b", "~", "é"])
def test_the_state_lies_in_its_directory_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    config = DaemonConfig.model_validate(
        {"workload": "w", "model": {"name": "m"}, "artifacts": {"directory": directory}}
    )
    database = Database(config.store_url)
    database.migrate()
    database.close()
    assert database.file == directory / "state.db"
    assert database.description == f"sqlite:///{directory / 'state.db'}"
    assert (directory / "state.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("text", "said"),
    [("~nobody-of-this-name/x", "is no user of this machine"), ("x" * 256, "a name of more than 255 bytes")],
)
def test_a_path_that_no_system_takes_is_refused_with_its_key(
    tmp_path: Path, elsewhere: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"artifacts.directory: .* {said}"):
        configured(tmp_path, f"artifacts: {{directory: {text}}}\n")
