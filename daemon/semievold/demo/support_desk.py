"""The demo's traffic: what customers of a made-up shop write to its support desk, generated from one seed.

Owns the reading of support_desk.yaml (phrasings by intent) and the drawing of a data set from it: slots, choices,
politeness, typos. Examples, queries, test and later mail all come from the same phrasings, so the few examples miss
most of them; mail out of scope has phrasings of its own. Invariant: the same arguments give the same data set, and no
question occurs twice in it.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from semievol.seeds import derive
from semievol.types import Example, Query

MIN_WORDS, MAX_WORDS = 5, 18
PREFIX_SHARE, SUFFIX_SHARE, LOWER_SHARE, TYPO_SHARE, BARE_END_SHARE = 0.25, 0.2, 0.35, 0.15, 0.3
MAX_DRAWS = 200

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"<(\w+)>")


@dataclass(frozen=True, slots=True)
class Phrasings:
    """The content of support_desk.yaml."""

    intents: Mapping[str, Sequence[str]]
    slots: Mapping[str, Sequence[str]]
    prefixes: Sequence[str]
    suffixes: Sequence[str]
    out_of_scope: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """One draw: `answers` holds the truth about `queries` by id; a run must not see it, only the report and the demo's
    people may. `mail` is what customers ask later, with the truth; `out_of_scope` what is no intent at all.
    """

    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    queries: tuple[Query, ...]
    answers: Mapping[str, str]
    test: tuple[Example, ...]
    mail: tuple[Example, ...] = ()
    out_of_scope: tuple[Query, ...] = ()


@cache
def phrasings() -> Phrasings:
    """The phrasings that travel with the package."""
    return Phrasings(**yaml.safe_load(files(__package__).joinpath("support_desk.yaml").read_text("utf-8")))


def labels() -> tuple[str, ...]:
    """The closed set of intents."""
    return tuple(phrasings().intents)


def generate(
    seed: int,
    labelled_per_intent: int = 12,
    unlabeled: int = 400,
    test: int = 200,
    mail: int = 0,
    out_of_scope: int = 0,
) -> Dataset:
    """Draw a data set: as many examples for each intent; queries, test examples and later mail over all intents.

    Raises:
        ValueError: more questions were asked for than the phrasings yield without repeating one.
    """
    intents = labels()
    rng = random.Random(derive(seed, "support desk"))
    seen: set[str] = set()

    def draw(intent: str | None) -> str:
        for _ in range(MAX_DRAWS):
            question = write_question(rng, intent)
            if question.casefold() not in seen:
                seen.add(question.casefold())
                return question
        raise ValueError(f"the phrasings of '{intent or 'out of scope'}' are used up: ask for fewer questions")

    def draw_examples(kind: str, order: Sequence[str]) -> tuple[Example, ...]:
        return tuple(
            Example(Query(f"{kind}-{seed}-{n:04d}", draw(intent), category=intent), intent, source="support desk")
            for n, intent in enumerate(order)
        )

    examples = draw_examples("label", _shuffled(rng, intents, labelled_per_intent * len(intents)))
    tests = draw_examples("test", _shuffled(rng, intents, test))
    truth = _shuffled(rng, intents, unlabeled)
    queries = tuple(Query(f"query-{seed}-{n:04d}", draw(intent)) for n, intent in enumerate(truth))
    answers = {query.id: intent for query, intent in zip(queries, truth, strict=True)}
    later = draw_examples("mail", _shuffled(rng, intents, mail))
    others = tuple(Query(f"other-{seed}-{n:04d}", draw(None)) for n in range(out_of_scope))
    return Dataset(intents, examples, queries, answers, tests, later, others)


def write_question(rng: random.Random, intent: str | None) -> str:
    """One question of that intent (None: of none), of MIN_WORDS to MAX_WORDS words."""
    source = phrasings()
    texts = source.out_of_scope if intent is None else source.intents[intent]
    while True:
        text = _fill(rng, rng.choice(texts), source.slots)
        text = text[0].upper() + text[1:]
        if rng.random() < PREFIX_SHARE:
            text = f"{rng.choice(source.prefixes)} {_lower_first(text)}"
        if rng.random() < SUFFIX_SHARE:
            text = f"{text} {rng.choice(source.suffixes)}"
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return _roughen(rng, text)


def _fill(rng: random.Random, phrasing: str, slots: Mapping[str, Sequence[str]]) -> str:
    """Resolve choices, then slots (one value for each slot of a question), and close the gaps of empty choices."""
    text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), phrasing)
    for slot in dict.fromkeys(_SLOT.findall(text)):
        text = text.replace(f"<{slot}>", rng.choice(slots[slot]))
    return re.sub(r"\s+([.?!,])", r"\1", " ".join(text.split()))


def _lower_first(text: str) -> str:
    return text if re.match(r"I\b", text) else text[0].lower() + text[1:]


def _roughen(rng: random.Random, text: str) -> str:
    """What keyboards do to text: no capitals, no final mark, a slip of the finger."""
    if rng.random() < LOWER_SHARE:
        text = text.lower()
    if rng.random() < BARE_END_SHARE:
        text = text.rstrip(".?!")
    if rng.random() < TYPO_SHARE:
        words = text.split()
        long_words = [n for n, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
        if long_words:
            n = rng.choice(long_words)
            words[n] = _slip(rng, words[n])
            text = " ".join(words)
    return text


def _slip(rng: random.Random, word: str) -> str:
    """Swap, drop or double one inner letter."""
    n = rng.randrange(1, len(word) - 2)
    kind = rng.choice(("swap", "drop", "double"))
    if kind == "swap":
        return word[:n] + word[n + 1] + word[n] + word[n + 2 :]
    return word[:n] + (word[n + 1 :] if kind == "drop" else word[n] + word[n:])


def _shuffled(rng: random.Random, intents: Sequence[str], count: int) -> list[str]:
    """`count` intents, as evenly as it goes, in random order; which intents get the remainder is random too."""
    order = [*(list(intents) * (count // len(intents))), *rng.sample(intents, count % len(intents))]
    rng.shuffle(order)
    return order


def write(dataset: Dataset, directory: Path) -> None:
    """Write labels.jsonl, queries.jsonl, queries.answers.jsonl and test.jsonl (one JSON object a line)."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_lines(directory / "labels.jsonl", map(_example_row, dataset.examples))
    _write_lines(directory / "queries.jsonl", ({"id": q.id, "question": q.question} for q in dataset.queries))
    _write_lines(
        directory / "queries.answers.jsonl", ({"id": key, "answer": answer} for key, answer in dataset.answers.items())
    )
    _write_lines(directory / "test.jsonl", map(_example_row, dataset.test))


def _example_row(example: Example) -> dict[str, object]:
    query = example.query
    return {"id": query.id, "question": query.question, "answer": example.answer, "category": query.category}


def _write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m semievold.demo.support_desk", description="Write the demo's data.")
    parser.add_argument("--out", type=Path, required=True, help="directory for the JSONL files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labelled-per-intent", type=int, default=12)
    parser.add_argument("--unlabeled", type=int, default=400)
    parser.add_argument("--test", type=int, default=200)
    a = parser.parse_args()
    write(generate(a.seed, a.labelled_per_intent, a.unlabeled, a.test), a.out)
    print(f"wrote labels.jsonl, queries.jsonl, queries.answers.jsonl, test.jsonl to {a.out}")


if __name__ == "__main__":
    main()
