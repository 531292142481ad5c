from pathlib import Path

import pytest
from pydantic import Field

from semievol.config.file import load_config
from semievol.config.method import SERVICE_SECTIONS, LabellingConfig, MethodConfig, Section
from semievol.errors import ConfigError
from semievold.config.daemon import DaemonConfig


class Inner(Section):
    rate: float = 0.5
    name: str = "x"
    label: str | None = None
    key: str | None = Field(default=None, repr=False)
    many: tuple[int, ...] = ()
    where: Path | None = None
    flag: bool = False


class Outer(Section):
    inner: Inner = Inner()
    maybe: Inner | None = None
    limit: int = Field(default=1, gt=0)
    listed: tuple[Inner, ...] = ()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "semievol.yaml"
    path.write_text(text)
    return path


def load(tmp_path: Path, text: str = "", **env: str) -> Outer:
    return load_config(Outer, write(tmp_path, text), env)


def complaint(tmp_path: Path, text: str = "", **env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **env)
    return str(caught.value).replace(f"{tmp_path}/", "")


# --- file -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_and_an_empty_one_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path) == Outer()
    assert load(tmp_path, "inner: {rate: 1e-4, many: [1, 2]}\nlimit: 3") == Outer(
        inner=Inner(rate=1e-4, many=(1, 2)), limit=3
    )


def test_without_a_file_only_the_environment_counts() -> None:
    assert load_config(Outer, None, {"SEMIEVOL__LIMIT": "4"}) == Outer(limit=4)


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    assert complaint(tmp_path, "inner: {rte: 1}") == "semievol.yaml: inner.rte: unknown key; did you mean rate?"
    assert complaint(tmp_path, "listed: [{nme: x}]") == (
        "semievol.yaml: listed[0].nme: unknown key; did you mean name?"
    )
    assert complaint(tmp_path, "zzz: 1") == ("semievol.yaml: zzz: unknown key; known here: inner, limit, listed, maybe")


def test_a_value_out_of_range_names_key_and_value(tmp_path: Path) -> None:
    assert complaint(tmp_path, "limit: 0") == ("semievol.yaml: limit: input should be greater than 0 (found 0)")


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    text = complaint(tmp_path, "limit: no number\ninner: {rate: [], flags: 1}")
    assert "limit: input should be a valid integer" in text
    assert "inner.rate: input should be a valid number" in text
    assert "inner.flags: unknown key; did you mean flag?" in text


def test_a_word_that_yaml_takes_for_a_truth_value_is_explained(tmp_path: Path) -> None:
    assert complaint(tmp_path, "inner: {name: yes}") == (
        "semievol.yaml: inner.name: input should be a valid string; "
        "put it in quotes (YAML reads yes, no, on and off as true and false)"
    )


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    assert complaint(tmp_path, "limit: 1\ninner: {}\nlimit: 2") == (
        "semievol.yaml:3: the key 'limit' appears twice; keep one"
    )


def test_merge_keys_still_work(tmp_path: Path) -> None:
    text = "inner: &base {rate: 0.1, name: a}\nmaybe: {<<: *base, name: b}"
    assert load(tmp_path, text).maybe == Inner(rate=0.1, name="b")


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    assert complaint(tmp_path, "limit: 1\n: [").startswith("semievol.yaml:2: ")


def test_a_file_that_is_no_mapping_or_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    assert complaint(tmp_path, "- 1") == "semievol.yaml: expected sections (key: value), found list"
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read \(No such file"):
        load_config(Outer, tmp_path / "none.yaml", {})
    (tmp_path / "latin.yaml").write_bytes(b"limit: \xff")
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        load_config(Outer, tmp_path / "latin.yaml", {})


# --- environment ----------------------------------------------------------------------------------------------------


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, "inner: {rate: 1, name: a}", SEMIEVOL__INNER__RATE="2", SEMIEVOL__MAYBE__FLAG="true")
    assert config == Outer(inner=Inner(rate=2, name="a"), maybe=Inner(flag=True))


def test_values_are_yaml_but_text_stays_text(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        SEMIEVOL__INNER__NAME="007",
        SEMIEVOL__INNER__LABEL="null",
        SEMIEVOL__INNER__MANY="[1, 2]",
        SEMIEVOL__INNER__WHERE="a: b",
    )
    assert config.inner == Inner(name="007", label=None, many=(1, 2), where=Path("a: b"))


def test_an_unknown_variable_is_an_error_that_names_the_nearest_key(tmp_path: Path) -> None:
    assert complaint(tmp_path, SEMIEVOL__INNER__RTE="1") == (
        "SEMIEVOL__INNER__RTE: unknown key inner.rte; did you mean rate?"
    )
    assert complaint(tmp_path, SEMIEVOL__INER__RATE="1").endswith("unknown key iner; did you mean inner?")
    assert complaint(tmp_path, SEMIEVOL__LIMIT__X="1").endswith("limit is a setting, not a section")
    assert complaint(tmp_path, SEMIEVOL__INNER__MANY="[1").endswith("the value is not valid YAML; quote it or use JSON")


def test_other_variables_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, SEMIEVOL_CONFIG="x", PATH="y") == Outer()


def test_a_secret_may_come_from_a_mounted_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hidden\n")
    assert load(tmp_path, SEMIEVOL__INNER__KEY_FILE=str(tmp_path / "key")).inner.key == "hidden"
    assert "cannot be read" in complaint(tmp_path, SEMIEVOL__INNER__KEY_FILE="/nowhere/key")


def test_a_secret_is_never_quoted_in_an_error(tmp_path: Path) -> None:
    assert "1234" not in complaint(tmp_path, "inner: {key: 1234}")
    assert "inner.key" in complaint(tmp_path, "inner: {key: 1234}")


# --- the method's own configuration ---------------------------------------------------------------------------------


def test_the_methods_configuration_needs_a_model_and_checks_deep_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model: missing; set it"):
        load_config(MethodConfig, None, {})
    path = write(tmp_path, "model: {name: m}\nlabelling: {configurations: [{name: a, sample: 2}]}")
    with pytest.raises(ConfigError, match=r"labelling.configurations\[0\].sample: unknown key; did you mean samples\?"):
        load_config(MethodConfig, path, {})
    path = write(tmp_path, "model: {name: m}\nlabelling: {configurations: [{name: a, temperature: 0, samples: 2}]}")
    with pytest.raises(ConfigError, match=r"configurations\[0\]: temperature 0 gives one answer: set samples to 1"):
        load_config(MethodConfig, path, {})
    assert load_config(MethodConfig, None, {"SEMIEVOL__MODEL__NAME": "m"}).labelling == LabellingConfig()


def test_a_run_on_files_reads_the_daemons_file_and_still_refuses_unknown_keys(tmp_path: Path) -> None:
    assert DaemonConfig.model_fields.keys() - MethodConfig.model_fields.keys() <= SERVICE_SECTIONS
    assert SERVICE_SECTIONS.isdisjoint(MethodConfig.model_fields)
    path = write(tmp_path, "workload: w\nmodel: {name: m}\ntrigger: {max_rounds: 1}")
    env = {"SEMIEVOL__API__TOKEN": "t", "SEMIEVOL__SEED": "3"}
    assert load_config(MethodConfig, path, env, foreign=SERVICE_SECTIONS).seed == 3
    with pytest.raises(ConfigError, match="trigger: unknown key"):
        load_config(MethodConfig, path, {})
    with pytest.raises(ConfigError, match="modle: unknown key; did you mean model"):
        load_config(MethodConfig, write(tmp_path, "modle: {name: m}"), {}, foreign=SERVICE_SECTIONS)


# --- auto -----------------------------------------------------------------------------------------------------------

AUTO = "model: {name: m}\ntraining: auto\n"


def method(tmp_path: Path, text: str, **env: str) -> MethodConfig:
    return load_config(MethodConfig, write(tmp_path, text), env, foreign=SERVICE_SECTIONS)


def test_training_auto_is_every_number_of_training_and_theta(tmp_path: Path) -> None:
    for config in (method(tmp_path, AUTO), method(tmp_path, "model: {name: m}", SEMIEVOL__TRAINING="auto")):
        training = config.training
        assert {training.epochs, training.learning_rate, training.batch_size, training.rank, training.alpha} == {"auto"}
        assert config.selection.theta == "auto"
    assert method(tmp_path, "model: {name: m}\ntraining: {rank: auto}").training.alpha == "auto"
    assert method(tmp_path, "model: {name: m}\ntraining: {rank: auto, alpha: 8}").training.alpha == 8


@pytest.mark.parametrize("rule", ["{theta: 0.3}", "{theta_by_round: [0.3]}", "{risk: {}}"])
def test_training_auto_leaves_a_rule_of_selection_alone(tmp_path: Path, rule: str) -> None:
    config = method(tmp_path, f"{AUTO}selection: {rule}")
    assert config == method(tmp_path, f"model: {{name: m}}\ntraining: {{{ALL_AUTO}}}\nselection: {rule}")
    with pytest.raises(ConfigError, match=r"selection.theta: input should be greater than 0, or auto \(found 0\)"):
        method(tmp_path, f"{AUTO}selection: {{theta: 0}}")


def test_a_risk_from_the_environment_takes_the_place_of_theta(tmp_path: Path) -> None:
    config = method(tmp_path, AUTO, SEMIEVOL__SELECTION__RISK__BUDGET="0.1")
    assert config.selection.risk is not None
    with pytest.raises(ConfigError, match="theta: is the paper's rule, and risk another one"):
        method(tmp_path, f"{AUTO}selection: {{theta: 0.3}}", SEMIEVOL__SELECTION__RISK__BUDGET="0.1")


ALL_AUTO = "epochs: auto, learning_rate: auto, batch_size: auto, rank: auto, alpha: auto"


def test_the_environment_changes_one_number_and_leaves_the_others_to_the_rule(tmp_path: Path) -> None:
    config = method(tmp_path, AUTO, SEMIEVOL__TRAINING__EPOCHS="3", SEMIEVOL__TRAINING__THREADS="1")
    training = config.training
    assert (training.epochs, training.threads, training.rank) == (3.0, 1, "auto")
    assert config.selection.theta == "auto"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{epochs: -1}", "training.epochs: input should be greater than 0, or auto (found -1)"),
        (
            "{rank: many}",
            "training.rank: input should be a valid integer, unable to parse string as an integer, or auto",
        ),
        ("{warm_epochs: 0}", "training.warm_epochs: input should be greater than 0, or auto (found 0)"),
    ],
)
def test_a_wrong_number_that_may_be_auto_is_one_fault(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        method(tmp_path, f"model: {{name: m}}\ntraining: {text}")
    assert said in str(caught.value)
    assert ";" not in str(caught.value)


def test_a_value_and_a_file_for_it_contradict_each_other(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    name = "SEMIEVOL__INNER__KEY"
    said = complaint(tmp_path, **{name: "t", f"{name}_FILE": str(tmp_path / "secret")})
    assert f"{name} and {name}_FILE are both set; keep one of them" in said


def test_another_shape_is_named_in_words_of_yaml(tmp_path: Path) -> None:
    assert "inner: should be a section, with keys below it (found 5)" in complaint(tmp_path, "inner: 5\n")
