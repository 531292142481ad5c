"""What `semievol eval` does: how well the base model or an adapter answers a file of labelled data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from semievol.commands.kept_answers import beside, kept_answers
from semievol.commands.retrieval import embedder_of, index_over
from semievol.config.method import MethodConfig
from semievol.engines.opening import load_adapter, open_generator
from semievol.errors import ConfigError
from semievol.examples.choices import settled
from semievol.examples.files import read_examples, write_jsonl
from semievol.proof.evaluation import Evaluation, evaluate
from semievol.runs.directory import outcome_row
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.tasks.text import token_f1
from semievol.teaching import Watcher
from semievol.types import Example


async def run_eval(
    config: MethodConfig,
    data: Path,
    adapter: Path | None,
    examples: Path | None,
    neighbours: int,
    out: Path | None,
    watcher: Watcher,
) -> dict[str, Any]:
    """`semievol eval`: accuracy on labelled data, closed book or with neighbours from `examples`."""
    if neighbours and examples is None:
        raise ConfigError("--neighbours: needs --examples, the file to retrieve from")
    config = settled(config, examples or data, labels=False)
    task = Task(config.task)
    tested = read_examples(data, task, config.data)
    retrievable = read_examples(examples, task, config.data) if examples and neighbours else []
    if out is not None:
        # Now: an output that cannot be written must not be noticed at the end.
        out.parent.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(open_generator(config, labels=False))
        if out is not None:
            kept = await stack.enter_async_context(kept_answers(generator, config, beside(out)))
            generator = kept.generator
        name = await load_adapter(generator, adapter)
        embedder = embedder_of(config) if neighbours or task.embeds else None
        index = index_over(embedder, retrievable) if embedder and neighbours else None
        found: Evaluation = await evaluate(
            generator,
            task,
            tested,
            name,
            index=index,
            neighbours=neighbours,
            seed=config.seed,
            progress=watcher("evaluate", len(tested)),
            equality=AnswerEquality(task, embedder),
        )
        if out is not None:
            write_jsonl(out, [outcome_row(outcome) for outcome in found.outcomes])
            if not found.left_out:
                kept.no_longer_needed()
    return {
        "adapter": name,
        "neighbours": neighbours,
        "count": len(found.outcomes),
        "left_out": dict(found.left_out),
        "accuracy": found.accuracy,
        "unparseable": sum(outcome.answer is None for outcome in found.outcomes),
        "by_category": dict(found.by_category),
        **({"token_f1": _token_f1(found, tested)} if config.task.form == "short_answer" else {}),
    }


def _token_f1(found: Evaluation, examples: Sequence[Example]) -> float | None:
    """The mean overlap of words with the true answers; None without examples."""
    by_id = {each.id: each for each in examples}
    shares = [token_f1(outcome.answer, by_id[outcome.id].answers) for outcome in found.outcomes]
    return sum(shares) / len(shares) if shares else None
