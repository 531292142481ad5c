"""The model of the stories learns what it is taught, right or wrong, and forgets nothing by itself."""

from __future__ import annotations

import numpy as np
import pytest

from semievol.types import Example, GenerationRequest, Message
from tests.scenarios.mail import INTENTS, Mail
from tests.scenarios.model import SIZE, Model, features, fitted


def taught(mail: list[Example], answers: list[str]) -> Model:
    asked = np.stack([features(each.query.question) for each in mail])
    truth = np.array([INTENTS.index(answer) for answer in answers])
    start = np.zeros((SIZE, len(INTENTS)), dtype=np.float32)
    return Model(INTENTS, fitted(start, asked, truth, np.ones(len(mail), dtype=np.float32)))


def accuracy(model: Model, test: list[Example]) -> float:
    return model.right([each.query.question for each in test], [each.answer for each in test])


@pytest.fixture(scope="module")
def mail() -> Mail:
    return Mail(7)


def test_more_labels_make_it_better_and_wrong_ones_worse(mail: Mail) -> None:
    known, test = mail.written(640), mail.written(400)
    right = [each.answer for each in known]
    wrong = [*right[:320], *(INTENTS[(INTENTS.index(each) + 1) % len(INTENTS)] for each in right[320:])]
    few, many = taught(known[:160], right[:160]), taught(known, right)
    assert accuracy(many, test) > accuracy(few, test) + 0.02
    assert accuracy(taught(known, wrong), test) < accuracy(few, test)


def test_the_untaught_model_reads_the_turns_that_it_is_shown(mail: Mail) -> None:
    shown, other = mail.written(8)[:2]
    turns = [Message("user", shown.query.question), Message("assistant", shown.answer)]
    asked = GenerationRequest((*turns, Message("user", shown.query.question)))
    assert Model(INTENTS).completion(asked, 0).text == shown.answer
    assert shown.query.question != other.query.question


def test_draws_depend_on_seed_and_number_alone(mail: Mail) -> None:
    (example,) = mail.written(1)
    request = GenerationRequest((Message("user", example.query.question),), samples=3, temperature=1.0, seed=3)
    drawn = [Model(INTENTS).completion(request, sample).text for sample in range(40)]
    assert drawn == [Model(INTENTS).completion(request, sample).text for sample in range(40)]
    assert len(set(drawn)) == len(INTENTS)
