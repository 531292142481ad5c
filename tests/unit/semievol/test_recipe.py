import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semievol.config.labelling import PanelConfig
from semievol.config.method import (
    Configuration,
    GateConfig,
    LabellingConfig,
    MethodConfig,
    ModelConfig,
    RiskConfig,
    SelectionConfig,
    TaskConfig,
    TrainingConfig,
)
from semievol.engines.answer_file import AnswerFile
from semievol.engines.remembered import RememberedAnswers
from semievol.errors import ConfigError, DataError, TooLongError, TransientError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.resident import ResidentExampleIndex
from semievol.labelling.panel import seats_of
from semievol.labelling.vote import learned_vote
from semievol.protocols import ExampleIndex, Progress
from semievol.recipe import evolve, run_round
from semievol.runs.directory import RunDirectory
from semievol.tasks.task import Task
from semievol.teaching import Run
from semievol.training.job import read_snapshot, snapshot_hash
from semievol.types import Example, GenerationRequest, Query
from tests.scripted import ListIndex, ScriptedGenerator

CONFIG = MethodConfig(
    task=TaskConfig(labels=("a", "b")),
    model=ModelConfig(name="none"),
    labelling=LabellingConfig(configurations=(Configuration(name="greedy", temperature=0.0, neighbours=2),)),
    gate=GateConfig(min_holdout=5),
)
EXAMPLES = tuple(Example(Query(f"e{i}", f"example {i}"), "a") for i in range(4))
HOLDOUT = tuple(Example(Query(f"h{i}", f"holdout {i}"), "a") for i in range(12))
QUERIES = tuple(Query(f"q{i}", f"query {i}") for i in range(10))


class World:
    """A model that gets better with every training: adapter n answers the first 5 * n held-out questions rightly."""

    def __init__(self, gains: tuple[int, ...] = (6, 12)) -> None:
        self.right: dict[str | None, int] = {None: 0}
        self.gains = list(gains)
        self.generator = ScriptedGenerator(self.answer)
        self.index = ListIndex(EXAMPLES)
        self.trained: list[Path] = []
        self.fail_training = False

    def answer(self, request: GenerationRequest) -> list[tuple[str, float]]:
        kind, number = request.messages[-1].content.split()
        if kind == "calibration":
            return [("a", int(number) / 200)]
        if kind == "holdout":
            return [("a" if int(number) < self.right[request.adapter] else "b", 0.1)]
        return [("a", int(number) / 10)]

    async def train(self, snapshot: Path, work: Path, adapters: Path, progress: Progress) -> Path:
        if self.fail_training:
            raise KeyboardInterrupt
        self.trained.append(snapshot)
        progress(100)
        name = f"adapter-{len(self.trained)}"
        self.right[name] = self.gains[len(self.trained) - 1]
        return adapters / name

    def run(self, directory: Path, config: MethodConfig = CONFIG, index: ExampleIndex | None = None) -> Run:
        return Run(
            config=config,
            task=Task(config.task),
            generator=self.generator,
            index=index or self.index,
            trainer=self.train,
            examples=EXAMPLES,
            holdout=HOLDOUT,
            queries=QUERIES,
            directory=RunDirectory(directory),
        )


async def test_rounds_build_on_each_other_as_long_as_they_are_promoted(tmp_path: Path) -> None:
    world = World()
    warm, evolved = await evolve(world.run(tmp_path / "run"), 1)
    assert (warm.kind, warm.incumbent, warm.adapter, warm.gate.decision) == ("warm", None, "adapter-1", "promote")
    assert (evolved.kind, evolved.incumbent, evolved.serving) == ("evolve", "adapter-1", "adapter-2")
    assert (evolved.labelled, evolved.selected, evolved.threshold, evolved.rows) == (10, 5, 0.4, 9)
    assert evolved.gate.candidate_accuracy == 1.0
    assert await world.generator.loaded_adapters() == {"adapter-2"}


async def test_the_adapter_promoted_last_labels_the_queries(tmp_path: Path) -> None:
    world = World()
    await evolve(world.run(tmp_path), 1)
    labelling = [r for call in world.generator.calls for r in call if r.messages[-1].content.startswith("query")]
    assert {request.adapter for request in labelling} == {"adapter-1"}


async def test_a_round_that_is_not_promoted_ends_the_run_and_changes_nothing(tmp_path: Path) -> None:
    world = World(gains=(6, 6, 12))
    results = await evolve(world.run(tmp_path), 2)
    assert [result.gate.decision for result in results] == ["promote", "inconclusive"]
    assert results[-1].serving == "adapter-1"
    assert await world.generator.loaded_adapters() == {"adapter-1"}


async def test_after_a_warm_round_that_is_not_promoted_the_base_model_labels(tmp_path: Path) -> None:
    world = World(gains=(0, 12))
    warm, evolved = await evolve(world.run(tmp_path), 1)
    assert warm.gate.decision == "inconclusive"
    assert (evolved.incumbent, evolved.serving) == (None, "adapter-2")


async def test_a_snapshot_holds_examples_and_selected_pseudo_labels_and_no_holdout(tmp_path: Path) -> None:
    world = World()
    await evolve(world.run(tmp_path / "run"), 1)
    warm, evolved = (read_snapshot(snapshot)[1] for snapshot in world.trained)
    assert sorted(row.id for row in warm) == ["e0", "e1", "e2", "e3"]
    assert sorted(row.id for row in evolved) == ["e0", "e1", "e2", "e3", "q0", "q1", "q2", "q3", "q4"]
    job, _ = read_snapshot(world.trained[1])
    assert (job.workload, job.round_number, job.kind, job.parent) == ("files", 2, "evolve", None)
    assert len(job.fingerprint_prompts) == 4


async def test_warm_and_evolve_rounds_have_their_own_rates_and_may_continue_the_incumbent(tmp_path: Path) -> None:
    training = CONFIG.training.model_copy(
        update={"warm_learning_rate": 1e-3, "warm_epochs": 9.0, "start_from": "incumbent"}
    )
    world = World()
    await evolve(world.run(tmp_path, CONFIG.model_copy(update={"training": training})), 1)
    warm, evolved = (read_snapshot(path)[0] for path in world.trained)
    assert (warm.learning_rate, warm.epochs, warm.parent) == (1e-3, 9.0, None)
    assert (evolved.learning_rate, evolved.epochs) == (training.learning_rate, training.epochs)
    assert evolved.parent == tmp_path / "adapters" / "adapter-1"


async def test_what_is_left_to_the_rule_is_found_for_each_round_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    auto = MethodConfig.model_validate({**CONFIG.model_dump(), "training": "auto", "selection": {}})
    world, again = World(), World()
    with caplog.at_level("INFO", logger="semievol.teaching"):
        results = await evolve(world.run(tmp_path / "one", auto), 1)
    numbers = {"epochs": 12.0, "learning_rate": 2e-4, "batch_size": 8, "rank": 16, "alpha": 32}
    assert [(result.theta, result.training) for result in results] == [(None, numbers), (0.5, numbers)]
    assert RunDirectory(tmp_path / "one").round(2).result() == results[1]
    assert read_snapshot(world.trained[1])[0].numbers() == numbers
    said = "round 2: 12 epochs at 0.0002, batches of 8, rank 16, for 9 rows of at most"
    assert any(said in record.getMessage() for record in caplog.records)
    await evolve(again.run(tmp_path / "two", auto), 1)
    assert [read_snapshot(path)[0] for path in again.trained] == [read_snapshot(path)[0] for path in world.trained]


async def test_every_pseudo_label_is_written_with_its_fate(tmp_path: Path) -> None:
    await evolve(World().run(tmp_path), 1)
    rows = [json.loads(line) for line in (tmp_path / "round-0002/pseudo_labels.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [query.id for query in QUERIES]
    assert [row["selected"] for row in rows] == [True] * 5 + [False] * 5
    assert {row.get("reason") for row in rows} == {None, "entropy above threshold"}
    assert rows[0]["neighbours"][0][0] == "e0"


async def test_a_finished_run_started_again_does_nothing(tmp_path: Path) -> None:
    world = World()
    results = await evolve(world.run(tmp_path), 1)
    calls = len(world.generator.calls)
    assert await evolve(world.run(tmp_path), 1) == results
    assert len(world.generator.calls) == calls
    assert len(world.trained) == 2


async def test_a_run_killed_in_training_goes_on_without_labelling_again(tmp_path: Path) -> None:
    world = World()
    run = world.run(tmp_path)
    warm = await run_round(run, 1, None)
    world.fail_training = True
    with pytest.raises(KeyboardInterrupt):
        await run_round(run, 2, warm.serving)
    world.fail_training = False
    calls = len(world.generator.calls)
    result = await run_round(run, 2, warm.serving)
    assert result.promoted
    assert all("query" not in r.messages[-1].content for call in world.generator.calls[calls:] for r in call)


async def test_a_directory_of_another_run_is_refused(tmp_path: Path) -> None:
    await evolve(World().run(tmp_path), 0)
    with pytest.raises(ConfigError, match="holds a run with other config; use another directory"):
        await evolve(World().run(tmp_path, CONFIG.model_copy(update={"seed": 5})), 0)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        await evolve(World().run(tmp_path), 0)


async def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    await evolve(World().run(tmp_path), 0)
    (tmp_path / "round-0001" / "round.json").write_text('{"number": 1}')
    with pytest.raises(DataError, match=r"round-0001/round.json: is not the result of a round"):
        await evolve(World().run(tmp_path), 0)


async def test_the_steps_are_announced_with_their_size(tmp_path: Path) -> None:
    announced: dict[str, list[int]] = {}

    def watch(step: str, total: int):  # type: ignore[no-untyped-def]
        announced[step] = [total, 0]

        def advance(count: int) -> None:
            announced[step][1] += count

        return advance

    world = World()
    run = world.run(tmp_path)
    watched = Run(**{name: getattr(run, name) for name in run.__slots__ if name != "watcher"}, watcher=watch)
    await evolve(watched, 1)
    assert announced["round 2: label"] == [10, 10]
    assert announced["round 2: train (%)"] == [100, 100]
    assert announced["round 2: evaluate adapter-2"] == [12, 12]
    assert all(total == done for total, done in announced.values())


async def test_a_run_that_ends_while_it_labels_goes_on_after_the_last_whole_answer(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"labelling": CONFIG.labelling.model_copy(update={"batch_size": 4})})
    undisturbed = await evolve(World().run(tmp_path / "whole", config), 1)
    world, kept = World(), tmp_path / "answers.jsonl"
    answer = world.answer

    def dying(request: GenerationRequest) -> list[tuple[str, float]]:
        if request.messages[-1].content == "query 6":
            raise TransientError("the engine is gone")
        return answer(request)

    world.generator.script = dying
    with pytest.raises(TransientError):
        await evolve(remembering(world.run(tmp_path / "run", config), kept), 1)
    with kept.open("ab") as file:  # what a process leaves that died within a write
        file.write(b'{"key": "0f')
    world.generator.script = answer
    calls = len(world.generator.calls)
    results = await evolve(remembering(world.run(tmp_path / "run", config), kept), 1)
    asked = [r.messages[-1].content for call in world.generator.calls[calls:] for r in call]
    assert [text for text in asked if text.startswith("query")] == [f"query {i}" for i in range(6, 10)]
    assert [result.gate for result in results] == [result.gate for result in undisturbed]
    files = [tmp_path / name / "round-0002" / "pseudo_labels.jsonl" for name in ("run", "whole")]
    assert files[0].read_text() == files[1].read_text()


def remembering(run: Run, path: Path) -> Run:
    return replace(run, generator=RememberedAnswers(run.generator, AnswerFile(path, {"model": "none"})))


async def test_queries_and_held_out_examples_that_are_refused_are_left_out_and_the_round_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    answer = world.answer

    def refusing(request: GenerationRequest) -> list[tuple[str, float]]:
        if request.messages[-1].content in ("query 3", "holdout 7"):
            raise TooLongError("the prompt has 300 tokens")
        return answer(request)

    world.generator.script = refusing
    _, evolved = await evolve(world.run(tmp_path), 1)
    assert (evolved.labelled, evolved.gate.count, evolved.gate.decision) == (9, 11, "promote")
    assert RunDirectory(tmp_path).round(2).left_out() == {"q3": "the prompt has 300 tokens"}
    assert "query q3 is left out: the prompt has 300 tokens" in caplog.text
    assert "example h7 is left out of the evaluation" in caplog.text


def written(directory: Path) -> str:
    return "".join(path.read_text() for path in directory.rglob("*.json*"))


async def test_a_run_goes_on_where_the_servers_moved_and_keeps_no_secret(tmp_path: Path) -> None:
    def placed(url: str, **training: object) -> MethodConfig:
        engine = {"kind": "openai", "base_url": url, "api_key": "known-secret"}
        sections = {"generation": engine, "models": {"big": {**engine, "model": "x"}}, "embedding": engine}
        return MethodConfig.model_validate(CONFIG.model_dump() | sections | {"training": training})

    logs = {"log_to": ["mlflow"], "log_steps": 2, "tensorboard_directory": "/logs", "mlflow_uri": "http://c:3"}
    await evolve(World().run(tmp_path, placed("http://a:1/v1")), 0)
    await evolve(World().run(tmp_path, placed("http://b:2/v1", threads=1, processes=2, **logs)), 0)
    assert "known-secret" not in written(tmp_path)
    assert "http://" not in (tmp_path / "run.json").read_text()


async def test_a_run_goes_on_with_more_processes_unless_the_rule_makes_its_batches_larger_for_them(
    tmp_path: Path,
) -> None:
    def shared(**training: object) -> MethodConfig:
        return MethodConfig.model_validate(CONFIG.model_dump() | {"training": {"batch_size": "auto", **training}})

    await evolve(World().run(tmp_path, shared()), 0)
    await evolve(World().run(tmp_path, shared(processes=4)), 0)
    with pytest.raises(ConfigError, match="holds a run with other config"):
        await evolve(World().run(tmp_path, shared(processes=3)), 0)


CALIBRATION = tuple(Example(Query(f"c{i}", f"calibration {i}"), "a" if i < 140 else "b") for i in range(200))
AT_RISK = CONFIG.model_copy(update={"selection": SelectionConfig(risk=RiskConfig())})


def at_risk(run: Run, calibration: tuple[Example, ...]) -> Run:
    return replace(run, config=AT_RISK, calibration=calibration)


async def test_a_stated_risk_selects_what_calibration_examples_certify(tmp_path: Path) -> None:
    world = World()
    _, evolved = await evolve(at_risk(world.run(tmp_path), CALIBRATION), 1)
    assert evolved.certificate is not None
    assert (evolved.certificate.labels, evolved.certificate.certified) == (200, True)
    assert (evolved.selected, evolved.threshold) == (8, 0.7)  # below 0.7 all calibration answers are right
    asked = [r for call in world.generator.calls for r in call if r.messages[-1].content.startswith("calibration")]
    assert {request.adapter for request in asked} == {"adapter-1"}
    trained = {row.id for row in read_snapshot(world.trained[1])[1]}
    assert not trained & {example.id for example in CALIBRATION}
    again = await evolve(at_risk(world.run(tmp_path), CALIBRATION), 1)
    assert again[1] == evolved


async def test_a_round_that_nothing_is_certified_for_says_so_and_trains_nothing(tmp_path: Path) -> None:
    world = World()
    warm, evolved = await evolve(at_risk(world.run(tmp_path), CALIBRATION[:20]), 2)
    assert len(world.trained) == 1
    assert (evolved.adapter, evolved.selected, evolved.serving) == (None, 0, warm.adapter)
    assert evolved.gate.decision == "inconclusive"
    assert "59 certain ones needed at the least: 39 more" in evolved.gate.reason
    assert (await evolve(at_risk(world.run(tmp_path), CALIBRATION[:20]), 2))[1] == evolved


# --- confidence that is learned -------------------------------------------------------------------------------------

MANY = tuple(Example(Query(f"e{i}", f"example {i}"), "ab"[i % 2]) for i in range(24))
LEARNING = CONFIG.model_copy(
    update={
        "labelling": LabellingConfig(
            configurations=(
                Configuration(name="taught", temperature=0.0, neighbours=0),
                Configuration(name="shown", temperature=0.0, neighbours=2, adapter="base"),
            ),
            justify=False,
        ),
        "selection": SelectionConfig.model_validate({"by": "learned", "learned": {"folds": 3}, "min_agreement": 0}),
    }
)


class Knowing(World):
    """The taught view is right where it is sure, the other half of the time wrong; the other view always says `a`."""

    def answer(self, request: GenerationRequest) -> list[tuple[str, float]]:
        kind, number = request.messages[-1].content.split()
        if kind == "holdout":
            return super().answer(request)
        if request.adapter is None:
            return [("a", 0.5)]
        sure = int(number) % 4 < 2
        truth = "ab"[int(number) % 2]
        return [(truth, 0.01)] if sure else [("b", 1.5)]

    def learning(self, directory: Path) -> Run:
        embedder = HashingEmbedder(32)
        index = ResidentExampleIndex(embedder)
        index.upsert(MANY)
        queries = tuple(Query(f"q{i}", f"example {100 + i}") for i in range(10))
        return replace(self.run(directory, LEARNING, index), examples=MANY, queries=queries, embedder=embedder)


async def test_confidence_is_learned_from_examples_that_no_view_had_seen(tmp_path: Path) -> None:
    world = Knowing(gains=(6, 6, 6, 6, 12))
    _, evolved = await evolve(world.learning(tmp_path), 1)
    files = RunDirectory(tmp_path).round(2)
    labels = {label.query.id: label for label in files.pseudo_labels() or ()}
    sure, unsure = (
        [label.right or 0.0 for key, label in labels.items() if (int(key[1:]) % 4 < 2) is wanted]
        for wanted in (True, False)
    )
    assert min(sure) > max(unsure)
    assert evolved.selected == 5
    assert {key for key, reason in files.reasons().items() if reason is None} < {"q0", "q1", "q4", "q5", "q8", "q9"}
    model = files.learned()
    assert model is not None
    assert model.labels == len(MANY)
    assert model.right == pytest.approx(18 / 24)

    # A fold's adapter was taught like the warm one, without the fold; it and the neighbours know nothing of the fold.
    warm, *folds, _ = (read_snapshot(path) for path in world.trained)
    assert len(folds) == 3
    left = [{example.id for example in MANY} - {row.id for row in rows} for _, rows in folds]
    assert sorted(key for each in left for key in each) == sorted(example.id for example in MANY)
    assert {(job.seed, job.kind, job.learning_rate, job.epochs) for job, _ in folds} == {
        (warm[0].seed, warm[0].kind, warm[0].learning_rate, warm[0].epochs)
    }
    for requests in world.generator.calls:
        for request in requests:
            asked = request.messages[-1].content
            shown = {message.content for message in request.messages[:-1]}
            if asked.startswith("example") and int(asked.split()[1]) < 100:
                fold = next(each for each in left if f"e{asked.split()[1]}" in each)
                assert not shown & {f"example {key[1:]}" for key in fold}
                if request.adapter is not None:
                    assert fold == left[int(request.adapter.removeprefix("adapter-")) - 2]
    assert await world.generator.loaded_adapters() == {"adapter-5"}


async def test_a_run_goes_on_with_the_confidence_that_it_learned(tmp_path: Path) -> None:
    world = Knowing(gains=(6, 6, 6, 6, 12))
    results = await evolve(world.learning(tmp_path), 1)
    files = RunDirectory(tmp_path).round(2)
    (files.path / "round.json").unlink()
    calls, trained = len(world.generator.calls), len(world.trained)
    world.right[f"adapter-{trained + 1}"] = 12
    world.gains.append(12)
    again = await evolve(world.learning(tmp_path), 1)
    assert (again[-1].selected, again[-1].threshold) == (results[-1].selected, results[-1].threshold)
    assert len(world.trained) == trained + 1  # the round's own; none of the folds
    asked = {request.messages[-1].content for call in world.generator.calls[calls:] for request in call}
    assert not [each for each in asked if each.startswith("example")]


async def test_too_few_examples_to_learn_from_are_said_before_any_fold_is_trained(tmp_path: Path) -> None:
    world = World(gains=(6, 6))
    run = world.run(tmp_path, CONFIG.model_copy(update={"selection": LEARNING.selection}))
    with pytest.raises(DataError, match="learned has 4 labelled questions to learn from, and needs 20"):
        await evolve(run, 1)
    assert len(world.trained) == 1


# --- what the queries say, before any answer ------------------------------------------------------------------------

READING = CONFIG.model_copy(
    update={"training": TrainingConfig(adapt_epochs=3, adapt_learning_rate=5e-4, learning_rate=1e-3)}
)


def once(run: Run) -> Run:
    """With a trainer that does no finished training again, as the real one."""
    made: dict[str, Path] = {}

    async def train(snapshot: Path, work: Path, adapters: Path, progress: Progress) -> Path:
        key = snapshot_hash(snapshot)
        if key not in made:
            made[key] = await run.trainer(snapshot, work, adapters, progress)
        return made[key]

    return replace(run, trainer=train)


async def test_the_queries_are_read_first_and_every_training_starts_from_that(tmp_path: Path) -> None:
    world = World(gains=(0, 6, 12))
    warm, evolved = await evolve(once(world.run(tmp_path / "run", READING)), 1)
    (read, texts), *taught = (read_snapshot(path) for path in world.trained)
    assert (read.kind, read.epochs, read.learning_rate, read.parent) == ("adapt", 3, 5e-4, None)
    assert {row.kind for row in texts} == {"query"}
    assert [row.messages[-1].content for row in texts] == [query.question for query in QUERIES]
    assert [(job.kind, job.learning_rate) for job, _ in taught] == [("warm", 1e-3), ("evolve", 1e-3)]
    assert {job.parent for job, _ in taught} == {tmp_path / "run" / "adapters" / "adapter-1"}
    assert (warm.adapter, evolved.adapter) == ("adapter-2", "adapter-3")
    asked = {request.adapter for call in world.generator.calls for request in call}
    assert asked == {None, "adapter-2", "adapter-3"}  # what has read alone answers nobody


async def test_no_held_out_question_is_read(tmp_path: Path) -> None:
    world = World(gains=(0, 6))
    run = world.run(tmp_path, READING)
    await evolve(replace(run, queries=(*run.queries, Query("copy", HOLDOUT[0].query.question))), 0)
    assert "copy" not in {row.id for row in read_snapshot(world.trained[0])[1]}


async def test_with_start_from_incumbent_only_the_first_training_starts_from_what_was_read(tmp_path: Path) -> None:
    training = READING.training.model_copy(update={"start_from": "incumbent"})
    world = World(gains=(0, 6, 12))
    await evolve(once(world.run(tmp_path, READING.model_copy(update={"training": training}))), 1)
    parents = [read_snapshot(path)[0].parent for path in world.trained]
    assert [None if parent is None else parent.name for parent in parents] == [None, "adapter-1", "adapter-2"]


async def test_folds_start_from_what_was_read_as_the_incumbent_did(tmp_path: Path) -> None:
    world = Knowing(gains=(0, 6, 6, 6, 6, 12))
    config = LEARNING.model_copy(update={"training": READING.training})
    await evolve(once(replace(world.learning(tmp_path), config=config)), 1)
    jobs = [read_snapshot(path)[0] for path in world.trained]
    assert [job.kind for job in jobs] == ["adapt", "warm", "warm", "warm", "warm", "evolve"]
    assert {job.parent for job in jobs[1:]} == {tmp_path / "adapters" / "adapter-1"}


async def test_without_a_query_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"training\.adapt_epochs: there is no query to read; give queries, or set 0"):
        await evolve(replace(World().run(tmp_path, READING), queries=()), 0)


def test_texts_are_read_where_lora_is_trained_and_in_no_fine_tuning_api() -> None:
    with pytest.raises(ValueError, match="adapt_epochs: openai_api is taught answers to questions, not texts"):
        TrainingConfig(kind="openai_api", adapt_epochs=1)
    with pytest.raises(ValueError, match="adapt_learning_rate: is for adapt_epochs"):
        TrainingConfig(adapt_learning_rate=1e-3)


async def test_a_directory_from_before_there_was_such_a_setting_is_gone_on_with(tmp_path: Path) -> None:
    await evolve(World().run(tmp_path), 0)
    assert "adapt_epochs" not in (tmp_path / "run.json").read_text()
    with pytest.raises(ConfigError, match="holds a run with other config"):
        await evolve(World().run(tmp_path, READING), 0)


# --- a panel --------------------------------------------------------------------------------------------------------

PANELLED = LEARNING.model_copy(
    update={
        "labelling": LabellingConfig.model_validate(
            {
                "configurations": [{"name": "taught", "temperature": 0, "neighbours": 0}],
                "justify": False,
                "panel": {"adapters": 3},
                "probe": {},
            }
        ),
        "selection": SelectionConfig(by="learned", theta=1.0, min_agreement=0),
    }
)


class Seated(Knowing):
    """The adapter that serves is wrong about every fourth question; those of the panel are right about all."""

    def answer(self, request: GenerationRequest) -> list[tuple[str, float]]:
        kind, number = request.messages[-1].content.split()
        if kind == "holdout":
            return World.answer(self, request)
        if request.adapter is None:
            return [("a", 0.01)]
        truth = "ab"[int(number) % 2]
        wrong = request.adapter == "adapter-1" and int(number) % 4 == 3
        return [("a" if wrong else truth, 0.05)]

    def panelled(self, directory: Path) -> Run:
        return once(replace(self.learning(directory), config=PANELLED))


async def test_a_panel_of_adapters_that_were_taught_apart_decides(tmp_path: Path) -> None:
    world = Seated(gains=(6, 6, 6, 6, 12))
    warm, evolved = await evolve(world.panelled(tmp_path), 1)
    files = RunDirectory(tmp_path).round(2)
    labels = files.pseudo_labels() or []
    assert {label.query.id: label.answer for label in labels} == {f"q{i}": "ab"[i % 2] for i in range(10)}
    assert evolved.selected == 10
    by_name = {label.query.id: label for label in labels}
    overruled = {each.configuration: each.answer for each in by_name["q3"].candidates}
    assert (overruled["taught"], overruled["panel 1"], overruled["panel 3"]) == ("a", "b", "b")
    assert set(overruled) == {"taught", "panel 1", "panel 2", "panel 3", "probe"}
    assert (by_name["q3"].right or 0) < (by_name["q1"].right or 0) < 1

    # Each was taught as the warm one, without a part of the examples, by a seed of its own; and asked that part.
    _, *seats, last = (read_snapshot(path) for path in world.trained)
    left = [{example.id for example in MANY} - {row.id for row in rows} for _, rows in seats]
    assert sorted(key for each in left for key in each) == sorted(example.id for example in MANY)
    assert [job.name_prefix for job, _ in seats] == ["panel1", "panel2", "panel3"]
    assert len({job.seed for job, _ in seats}) == 3
    assert last[0].kind == "evolve"
    for number, kept in enumerate(left, start=2):
        asked = {
            f"e{request.messages[-1].content.split()[1]}"
            for call in world.generator.calls
            for request in call
            if request.adapter == f"adapter-{number}" and int(request.messages[-1].content.split()[1]) < 100
        }
        assert asked == kept
    vote = files.vote()
    assert vote is not None
    assert (vote.labels, vote.alone["taught"]) == (len(MANY), 1.0)
    assert await world.generator.loaded_adapters() == {evolved.adapter}
    assert warm.adapter == "adapter-1"


async def test_in_halves_all_rows_of_an_example_share_a_fold_and_count_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, list[int], int]] = []

    def heard(kinds: Any, words: Any, truth: Any, folds: Any, times: int = 1) -> Any:
        given.append((len(truth), folds.tolist(), times))
        return learned_vote(kinds, words, truth, folds, times)

    monkeypatch.setattr("semievol.labelling.panel.learned_vote", heard)
    panel = PanelConfig(adapters=4, by="halves")
    config = PANELLED.model_copy(update={"labelling": PANELLED.labelling.model_copy(update={"panel": panel})})
    world = Seated(gains=(6, 6, 6, 6, 6, 12))
    run = once(replace(world.learning(tmp_path), config=config))
    await evolve(run, 1)
    ((rows, folds, times),) = given
    assert (rows, times) == (2 * len(MANY), 2)
    # As the seats were asked, one half after the other: those of the second division are of both folds of the first.
    seats = seats_of(MANY, panel)
    first = {example.id: seat.fold for seat in seats[:2] for example in seat.inside}
    assert folds == [first[example.id] for seat in seats for example in seat.inside]
    vote = RunDirectory(tmp_path).round(2).vote()
    assert vote is not None
    assert vote.labels == len(MANY)


async def test_a_run_goes_on_with_what_its_panel_decided_and_the_same_run_decides_the_same(tmp_path: Path) -> None:
    world = Seated(gains=(6, 6, 6, 6, 12))
    run = world.panelled(tmp_path / "one")
    results = await evolve(run, 1)
    (RunDirectory(tmp_path / "one").round(2).path / "round.json").unlink()
    calls = len(world.generator.calls)
    assert (await evolve(run, 1))[-1].selected == results[-1].selected
    asked = {request.messages[-1].content for call in world.generator.calls[calls:] for request in call}
    assert all(each.startswith("holdout") for each in asked)
    assert len(world.trained) == 5
    await evolve(Seated(gains=(6, 6, 6, 6, 12)).panelled(tmp_path / "two"), 1)
    for name in ("pseudo_labels.jsonl", "vote.json", "snapshot/rows.jsonl"):
        first, second = (tmp_path / each / "round-0002" / name for each in ("one", "two"))
        assert first.read_text() == second.read_text()


async def test_where_no_adapter_serves_the_base_model_is_not_one_of_the_taught(tmp_path: Path) -> None:
    world = Seated(gains=(0, 6, 6, 6, 12))
    await evolve(world.panelled(tmp_path), 1)
    labels = RunDirectory(tmp_path).round(2).pseudo_labels() or []
    assert {label.adapter for label in labels} == {None}
    assert {label.candidates[0].answer for label in labels} == {"a"}  # surely, and half of the time wrong
    assert {label.query.id: label.answer for label in labels} == {f"q{i}": "ab"[i % 2] for i in range(10)}


async def test_a_panel_starts_from_what_was_read_too(tmp_path: Path) -> None:
    world = Seated(gains=(0, 6, 6, 6, 6, 12))
    config = PANELLED.model_copy(update={"training": READING.training})
    await evolve(once(replace(world.learning(tmp_path), config=config)), 1)
    jobs = [read_snapshot(path)[0] for path in world.trained]
    assert [job.kind for job in jobs] == ["adapt", "warm", "warm", "warm", "warm", "evolve"]
    assert {job.parent for job in jobs[1:]} == {tmp_path / "adapters" / "adapter-1"}


async def test_a_risk_is_certified_on_what_the_panel_says_of_the_calibration_examples(tmp_path: Path) -> None:
    world = Seated(gains=(6, 6, 6, 6, 12))
    selection = {"by": "learned", "min_agreement": 0, "risk": {"budget": 0.1}}
    config = PANELLED.model_copy(update={"selection": SelectionConfig.model_validate(selection)})
    calibration = tuple(Example(Query(f"c{i}", f"example {200 + i}"), "ab"[i % 2]) for i in range(320))
    run = replace(world.learning(tmp_path), config=config, calibration=calibration)
    _, evolved = await evolve(once(run), 1)
    assert evolved.certificate is not None
    assert (evolved.certificate.certified, evolved.selected) == (True, 10)
    asked = RunDirectory(tmp_path).round(2).calibration()
    assert {label.query.id: label.answer for label in asked} == {f"c{i}": "ab"[i % 2] for i in range(320)}
    assert all(len(label.candidates) == 5 and label.right is not None for label in asked)
    taught = {row.id for path in world.trained for row in read_snapshot(path)[1]}
    assert not taught & {example.id for example in calibration}
