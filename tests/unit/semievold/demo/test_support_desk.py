from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from semievold.demo import support_desk
from semievold.demo.support_desk import MAX_WORDS, MIN_WORDS, Dataset, generate, labels, phrasings, write


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return generate(seed=3)


def questions(dataset: Dataset) -> list[str]:
    examples = (*dataset.examples, *dataset.test)
    return [*(example.query.question for example in examples), *(query.question for query in dataset.queries)]


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data(dataset: Dataset) -> None:
    assert generate(seed=3) == dataset
    assert set(questions(generate(seed=4))) != set(questions(dataset))


def test_no_question_occurs_twice_in_a_data_set(dataset: Dataset) -> None:
    folded = [question.casefold() for question in questions(dataset)]
    assert len(set(folded)) == len(folded) == 12 * 16 + 400 + 200


def test_ids_are_unique_and_the_truth_covers_exactly_the_queries(dataset: Dataset) -> None:
    ids = [query.id for query in dataset.queries]
    assert list(dataset.answers) == ids
    assert len({*ids, *(e.id for e in dataset.examples), *(e.id for e in dataset.test)}) == 12 * 16 + 400 + 200


def test_every_intent_has_as_many_examples_and_about_as_many_queries(dataset: Dataset) -> None:
    assert set(Counter(example.answer for example in dataset.examples).values()) == {12}
    counts = Counter(dataset.answers.values())
    assert set(counts) == set(labels())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_questions_are_short_and_have_no_unresolved_slots(dataset: Dataset) -> None:
    for question in questions(dataset):
        assert MIN_WORDS <= len(question.split()) <= MAX_WORDS, question
        assert not set("<>()|") & set(question), question


def test_every_intent_has_many_phrasings_and_a_short_label() -> None:
    for label, texts in phrasings().intents.items():
        assert len(set(texts)) >= 15, label
        assert len(label.split()) <= 3
    assert len(labels()) == 16


def test_asking_for_more_than_the_phrasings_yield_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support_desk, "MAX_DRAWS", 1)
    with pytest.raises(ValueError, match="used up"):
        generate(seed=0, unlabeled=5_000)


def test_written_files_hold_one_json_object_a_line(dataset: Dataset, tmp_path: Path) -> None:
    write(dataset, tmp_path)
    counts = {
        file.name: len(list(map(json.loads, file.read_text("utf-8").splitlines()))) for file in tmp_path.iterdir()
    }
    assert counts == {"labels.jsonl": 192, "queries.jsonl": 400, "queries.answers.jsonl": 400, "test.jsonl": 200}
