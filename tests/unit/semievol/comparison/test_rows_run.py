"""Every row of a comparison with a scripted model: what it is trained on, what it is asked, what is shared."""

from dataclasses import replace
from pathlib import Path

import pytest

from semievol.commands.compare import CompareFiles, run_compare
from semievol.commands.compare_options import CompareOptions, parsed_options
from semievol.comparison.rows import all_methods, pick, with_candidates, with_theta
from semievol.comparison.rows_run import SharedTrainer, World, drawn_examples, run_method, with_ratio
from semievol.comparison.table import markdown, table
from semievol.config.method import (
    Configuration,
    ConsensusConfig,
    LabellingConfig,
    MethodConfig,
    ModelConfig,
    SelectionConfig,
    TaskConfig,
    TrainingConfig,
)
from semievol.engines.remembered import RememberedAnswers
from semievol.errors import ConfigError, DataError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.lexical import Bm25ExampleIndex
from semievol.examples.split import split_calibration
from semievol.protocols import Progress
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.teaching import no_watcher
from semievol.training.job import read_snapshot
from semievol.types import Example, GenerationRequest, Query
from tests.scripted import ListIndex, ScriptedGenerator

CONFIG = MethodConfig(
    task=TaskConfig(labels=("a", "b")),
    model=ModelConfig(name="none"),
    labelling=LabellingConfig(
        configurations=(
            Configuration(name="open", temperature=0.0, neighbours=2, adapter="base"),
            Configuration(name="sampled", samples=2, neighbours=0),
        )
    ),
    selection=SelectionConfig(theta_by_round=(0.5, 1.0)),
    training=TrainingConfig(learning_rate=0.1),
)
EXAMPLES = tuple(Example(Query(f"e{i}", f"example {i}"), "ab"[i % 2]) for i in range(6))
QUERIES = tuple(Query(f"q{i}", f"query {i}") for i in range(10))
TRUTH = {query.id: Example(query, "a" if i < 8 else "b") for i, query in enumerate(QUERIES)}
TESTED = tuple(Example(Query(f"t{i}", f"test {i}"), "a") for i in range(10))


class Model:
    """Adapter n answers 2 * n test questions rightly; queries are all answered `a`, the later the less surely."""

    def __init__(self) -> None:
        self.generator = ScriptedGenerator(self.answer)
        self.trained: list[Path] = []
        self.known: dict[Path, str] = {}

    def answer(self, request: GenerationRequest) -> list[tuple[str, float]]:
        kind, number = request.messages[-1].content.split()
        if kind == "test":
            right = 0 if request.adapter is None else 2 * int(request.adapter.split("-")[1])
            return [("a" if int(number) < right else "b", 0.1)]
        return [("a", int(number) / 10)] * request.samples

    async def train(self, snapshot: Path, work: Path, adapters: Path, progress: Progress) -> Path:
        if work not in self.known:
            self.trained.append(snapshot)
            self.known[work] = f"adapter-{len(self.trained)}"
        return adapters / self.known[work]

    def world(self, directory: Path, neighbours: int = 2) -> World:
        task = Task(CONFIG.task)
        return World(
            task=task,
            generator=RememberedAnswers(self.generator),
            trainer=SharedTrainer(self.train, directory / "trainings"),
            dense=ListIndex(EXAMPLES),
            bm25=Bm25ExampleIndex(EXAMPLES),
            embedder=HashingEmbedder(16),
            equality=AnswerEquality(task),
            examples=EXAMPLES,
            queries=QUERIES,
            truth=TRUTH,
            tested=TESTED,
            rounds=2,
            neighbours=neighbours,
            directory=directory,
            watcher=no_watcher,
        )


METHODS = {method.name: method for method in all_methods(CONFIG)}


async def test_rounds_label_with_the_adapter_before_and_keep_more_in_the_second(tmp_path: Path) -> None:
    model = Model()
    result = await run_method(METHODS["semievol"], model.world(tmp_path))
    assert [stage["closed_book"] for stage in result["stages"]] == [0.2, 0.4, 0.6]
    assert [stage.get("selected") for stage in result["stages"]] == [None, 5, 10]
    assert result["stages"][2]["precision"] == 0.8
    assert result["stages"][1]["selected_precision"] == 1.0
    sampled = [r for call in model.generator.calls for r in call if r.samples == 2]
    assert {r.adapter for r in sampled} == {"adapter-1", "adapter-2"}
    assert (tmp_path / "semievol" / "round-1-open_book.jsonl").exists()


async def test_selection_at_a_stated_risk_trains_no_round_while_labels_are_missing(tmp_path: Path) -> None:
    model = Model()
    result = await run_method(METHODS["stated_risk"], model.world(tmp_path))
    warm, first, second = result["stages"]
    assert warm["adapter"] == first["adapter"] == second["adapter"] == "adapter-1"
    assert len(model.trained) == 1
    assert (first["labelled"], first["selected"], first["rows"]) == (10, 0, 0)
    assert first["certificate"]["threshold"] is None
    assert "59 certain ones needed at the least" in first["certificate"]["reason"]
    warm_rows = {row.id for row in read_snapshot(model.trained[0])[1]}
    _, calibration = split_calibration(EXAMPLES, 0.25)
    assert calibration
    assert warm_rows == {example.id for example in EXAMPLES} - {example.id for example in calibration}


async def test_equal_trainings_and_finished_rows_are_not_done_again(tmp_path: Path) -> None:
    model = Model()
    sft = await run_method(METHODS["sft"], model.world(tmp_path))
    await run_method(METHODS["semievol"], model.world(tmp_path))
    assert len(model.trained) == 3  # SFT is the warm round of SemiEvol
    assert await run_method(METHODS["sft"], model.world(tmp_path)) == sft
    assert len(model.trained) == 3
    refusal = "holds this row with other neighbours; use another directory, or delete this one"
    with pytest.raises(ConfigError, match=refusal):
        await run_method(METHODS["sft"], model.world(tmp_path, neighbours=0))


async def test_a_row_that_no_pseudo_label_reaches_stays_when_selection_is_set_otherwise(tmp_path: Path) -> None:
    model = Model()
    sft = await run_method(METHODS["sft"], model.world(tmp_path))
    other = CONFIG.model_copy(update={"selection": CONFIG.selection.model_copy(update={"theta": 0.3})})
    assert await run_method(replace(METHODS["sft"], config=other), model.world(tmp_path)) == sft
    slower = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"learning_rate": 1e-5})})
    with pytest.raises(ConfigError, match="holds this row with other config"):
        await run_method(replace(METHODS["sft"], config=slower), model.world(tmp_path))


async def test_a_row_with_other_settings_or_other_words_is_refused(tmp_path: Path) -> None:
    model = Model()
    method = METHODS["semievol"]
    await run_method(method, model.world(tmp_path))
    with pytest.raises(ConfigError, match="holds this row with other config"):
        await run_method(replace(method, config=with_candidates(CONFIG, 1)), model.world(tmp_path))
    other = replace(model.world(tmp_path), tested=(Example(Query("t0", "test 00"), "a"), *TESTED[1:]))
    with pytest.raises(ConfigError, match="holds this row with other test"):
        await run_method(method, other)


async def test_the_bound_is_trained_on_the_truth(tmp_path: Path) -> None:
    model = Model()
    await run_method(METHODS["fully_labelled"], model.world(tmp_path))
    _, rows = read_snapshot(model.trained[0])
    assert {row.id: row.completion for row in rows if row.id.startswith("q")} == {
        key: example.answer for key, example in TRUTH.items()
    }


async def test_the_probe_is_asked_no_model(tmp_path: Path) -> None:
    model = Model()
    known = tuple(Example(Query(f"e{i}", f"{word} {i}"), word) for i, word in enumerate("ab" * 6))
    tested = tuple(Example(Query(f"t{i}", f"{word} {i}"), word) for i, word in enumerate("abb"))
    world = replace(model.world(tmp_path), examples=known, tested=tested, embedder=HashingEmbedder(64))
    (stage,) = (await run_method(METHODS["probe"], world))["stages"]
    assert (stage["closed_book"], stage["accuracy_out_of_fold"]) == (1.0, 1.0)
    assert model.generator.calls == model.trained == []
    assert "open_book" not in stage


async def test_without_in_weight_propagation_the_base_model_labels(tmp_path: Path) -> None:
    model = Model()
    await run_method(METHODS["no_in_weight"], model.world(tmp_path))
    labelling = [r for call in model.generator.calls for r in call if r.messages[-1].content.startswith("query")]
    assert {r.adapter for r in labelling} == {None}


def test_each_ablation_takes_one_part_away() -> None:
    shown = {name: [c.neighbours for c in METHODS[name].config.labelling.configurations] for name in METHODS}
    assert shown["no_in_context"] == [0, 0]
    assert shown["no_collaboration"] == [2]
    assert METHODS["no_selection"].config.selection.of_evolve_round(1).theta == 1.0
    assert METHODS["self_training"].config.selection.by == "entropy"
    samples = [c.samples for c in METHODS["no_in_context"].config.labelling.configurations]
    assert sum(samples) == 3


def test_what_asks_closed_book_hears_no_neighbours_in_the_consensus_either() -> None:
    settings = {
        "labelling": CONFIG.labelling.model_copy(update={"consensus": ConsensusConfig()}),
        "selection": CONFIG.selection.model_copy(update={"by": "consensus"}),
    }
    methods = {method.name: method.config for method in all_methods(CONFIG.model_copy(update=settings))}
    heard = {name: (config.labelling.consensus is not None, config.selection.by) for name, config in methods.items()}
    assert heard["semievol"] == heard["no_collaboration"] == heard["no_in_weight"] == (True, "consensus")
    assert heard["no_in_context"] == (False, "votes")
    assert heard["self_training"] == (False, "entropy")


def test_what_is_asked_of_one_view_has_no_panel() -> None:
    labelling = {
        "configurations": [{"name": "closed", "temperature": 0, "neighbours": 0}],
        "justify": False,
        "panel": {},
        "probe": {},
    }
    config = CONFIG.model_copy(
        update={
            "labelling": LabellingConfig.model_validate(labelling),
            "selection": SelectionConfig(by="learned", min_agreement=0),
        }
    )
    methods = {method.name: method.config for method in all_methods(config)}
    without = {name for name, each in methods.items() if each.labelling.panel is None}
    assert without == {"self_training", "no_in_weight", "no_collaboration"}
    assert methods["no_in_context"].labelling.probe is None
    for each in methods.values():
        MethodConfig.model_validate(each.model_dump())


async def test_the_bound_starts_from_the_queries_text_as_the_method_does(tmp_path: Path) -> None:
    training = CONFIG.training.model_copy(update={"adapt_epochs": 1.0})
    methods = {each.name: each for each in all_methods(CONFIG.model_copy(update={"training": training}))}
    model = Model()
    for name in ("sft", "fully_labelled"):
        await run_method(methods[name], model.world(tmp_path))
    jobs = [read_snapshot(path)[0] for path in model.trained]
    assert [job.kind for job in jobs] == ["adapt", "warm", "evolve"]
    assert jobs[1].parent == jobs[2].parent is not None


def test_sweeps_change_one_number() -> None:
    assert [c.samples for c in with_candidates(CONFIG, 2).labelling.configurations] == [1, 1]
    assert [c.samples for c in with_candidates(CONFIG, 5).labelling.configurations] == [1, 4]
    assert with_theta(CONFIG, 0.3).selection.of_evolve_round(2).theta == 0.3
    with pytest.raises(ConfigError, match=r"theta=1\.5"):
        with_theta(CONFIG, 1.5)
    with pytest.raises(ConfigError, match="the last configuration is greedy"):
        with_candidates(METHODS["no_collaboration"].config, 2)
    assert len(with_ratio(QUERIES, len(EXAMPLES), 0.5, 0)) == 3
    with pytest.raises(ConfigError, match=r"ratio=3: 6 examples and 10 queries allow up to 1\.7"):
        with_ratio(QUERIES, len(EXAMPLES), 3, 0)


def test_examples_are_drawn_by_answer_and_by_the_seed() -> None:
    one = drawn_examples(EXAMPLES, 2, 0)
    assert sorted(example.answer for example in one) == ["a", "a", "b", "b"]
    assert drawn_examples(EXAMPLES, 2, 0) == one
    drawn = {tuple(example.id for example in drawn_examples(EXAMPLES, 2, seed)) for seed in range(8)}
    assert len(drawn) > 1
    assert drawn_examples(EXAMPLES, None, 0) == EXAMPLES


def test_an_unknown_row_is_named() -> None:
    with pytest.raises(ConfigError, match="there is no row wizard; there are vanilla"):
        pick(all_methods(CONFIG), ["sft", "wizard"])


async def test_the_table_counts_what_the_files_say(tmp_path: Path) -> None:
    model = Model()
    results: dict[str, list[dict[str, object]]] = {}
    for name in ("vanilla", "sft", "semievol", "fully_labelled"):
        results[name] = [await run_method(METHODS[name], model.world(tmp_path / "seed-0"))]
    titles = {name: METHODS[name].title for name in results}
    rows = table(results, titles, (0,), tmp_path)
    found = {row["row"]: row for row in rows}
    assert found["vanilla"]["closed_book"]["accuracy"] == 0.0
    assert found["semievol"]["closed_book"]["error_reduction"] == pytest.approx(0.6)
    assert found["semievol"]["closed_book"]["error_reduction_over_sft"] == pytest.approx(0.5)
    assert found["semievol"]["closed_book"]["gap_closed"] == pytest.approx((0.6 - 0.2) / (0.8 - 0.2))
    assert found["sft"]["closed_book"]["minus_semievol"]["difference"] == pytest.approx(-0.4)
    text = markdown({"examples": 6, "queries": 10, "tested": 10, "seeds": [0], "neighbours": 2, "rows": rows})
    assert "| SemiEvol | 60.0 [31.3, 83.2] | 20.0 → 40.0 → 60.0 | 60 % | 50 % | 67 % |  |" in text


def test_options_are_read_and_their_faults_named() -> None:
    options = parsed_options(
        seeds="0, 2", rows="sft,semievol", models=["Other=/m"], sweeps=["n=1,2", "theta=0.5"], rounds=1
    )
    assert (options.seeds, options.rows, options.models) == ((0, 2), ("sft", "semievol"), {"Other": "/m"})
    assert options.sweeps == {"n": (1.0, 2.0), "theta": (0.5,)}
    for faulty, message in (
        ({"seeds": "0,0"}, "one of them twice"),
        ({"seeds": "a"}, "--seeds: 'a' is not a list of numbers"),
        ({"seeds": "-1"}, "a number below 0"),
        ({"models": ["x"]}, "--model: 'x' is not TITLE=NAME"),
        ({"sweeps": ["lr=1"]}, "--sweep: 'lr=1' is not one of n, theta, ratio"),
    ):
        with pytest.raises(ConfigError, match=message):
            parsed_options(**{"seeds": "0", "rows": None, "models": [], "sweeps": [], **faulty})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": ("fully_labelled",)}, "--rows fully_labelled: needs --answers with the truth of every query; 2 have"),
        ({"rows": ("rag_dense",), "neighbours": 0}, "--rows rag_dense: needs --neighbours above 0"),
        ({"sweeps": {"theta": (50.0,)}}, "--sweep theta=50"),
        ({"sweeps": {"n": (1.5,)}}, "--sweep n=1.5: needs whole numbers"),
    ],
)
async def test_what_cannot_run_is_refused_before_anything_is_trained(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await run_compare(CONFIG, files(tmp_path), CompareOptions(**options), no_watcher)  # type: ignore[arg-type]


async def test_what_is_tested_on_must_not_be_trained_on(tmp_path: Path) -> None:
    given = files(tmp_path, test='{"id": "q1", "question": "x", "answer": "a"}')
    with pytest.raises(DataError, match=r"test.jsonl: field 'id': 'q1' is also in .*queries.jsonl"):
        await run_compare(CONFIG, given, CompareOptions(), no_watcher)
    with pytest.raises(DataError, match=r"test\.jsonl: is empty"):
        await run_compare(CONFIG, files(tmp_path, test=""), CompareOptions(), no_watcher)


def files(directory: Path, test: str = '{"id": "t", "question": "x", "answer": "a"}') -> CompareFiles:
    (directory / "examples.jsonl").write_text('{"id": "e", "question": "x", "answer": "a"}\n')
    (directory / "queries.jsonl").write_text('{"id": "q1", "question": "x"}\n{"id": "q2", "question": "y"}\n')
    (directory / "test.jsonl").write_text(test + "\n")
    return CompareFiles(directory / "examples.jsonl", directory / "queries.jsonl", directory / "test.jsonl", directory)
