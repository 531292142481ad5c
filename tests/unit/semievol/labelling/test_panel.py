"""The panel: who is taught what, who answers, and which settings make none."""

from typing import Any

import pytest
from pydantic import ValidationError

from semievol.config.labelling import LabellingConfig, PanelConfig
from semievol.config.method import MethodConfig
from semievol.errors import DataError
from semievol.labelling.panel import seats_of, with_seats
from semievol.types import Example, Query

EXAMPLES = tuple(Example(Query(f"e{i}", f"question {i}"), "abc"[i % 3]) for i in range(30))
TAUGHT = {"name": "closed", "temperature": 0, "neighbours": 0}
SHOWN = {"name": "shown", "temperature": 0, "neighbours": 3, "adapter": "base"}


def config(**changes: Any) -> LabellingConfig:
    values = {"configurations": [SHOWN, TAUGHT], "justify": False, "panel": {"adapters": 3}} | changes
    return LabellingConfig.model_validate(values)


def ids(examples: tuple[Example, ...]) -> set[str]:
    return {example.id for example in examples}


def test_by_folds_each_example_is_kept_from_one_seat() -> None:
    seats = seats_of(EXAMPLES, PanelConfig(adapters=5))
    assert [seat.number for seat in seats] == [1, 2, 3, 4, 5]
    assert sorted(key for seat in seats for key in ids(seat.inside)) == sorted(ids(EXAMPLES))
    for seat in seats:
        assert ids(seat.inside) | ids(seat.others) == ids(EXAMPLES)
        assert not ids(seat.inside) & ids(seat.others)
        assert {example.answer for example in seat.inside} == set("abc")
    assert seats == seats_of(EXAMPLES, PanelConfig(adapters=5))


def test_halves_come_in_pairs_each_by_another_division() -> None:
    seats = seats_of(EXAMPLES, PanelConfig(adapters=4, by="halves"))
    for one, other in (seats[:2], seats[2:]):
        assert ids(one.others) == ids(other.inside)
        assert abs(len(one.others) - len(other.others)) <= 3
    assert ids(seats[0].others) not in (ids(seats[2].others), ids(seats[3].others))


def test_too_few_examples_are_said() -> None:
    with pytest.raises(DataError, match=r"labelling\.panel: 2 examples are too few for 4 adapters by folds"):
        seats_of(EXAMPLES[:2], PanelConfig())


def test_a_seat_answers_as_the_serving_adapter_does() -> None:
    asked = with_seats(config(), ["x", "y", "z"])
    assert [each.name for each in asked.configurations] == ["shown", "closed", "panel 1", "panel 2", "panel 3"]
    assert [each.adapter for each in asked.configurations] == ["base", None, "x", "y", "z"]
    assert {each.neighbours for each in asked.configurations[1:]} == {0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"panel": {"adapters": 3, "by": "halves"}}, "adapters: 3 is odd, and halves go in pairs"),
        ({"justify": True}, "justify: what the model would pick, the vote of the panel decides"),
        ({"consensus": {}}, "panel: decides by its vote, and consensus by what is near"),
        ({"configurations": [SHOWN]}, "panel: its adapters answer as the serving one does, which no configuration"),
        ({"configurations": [TAUGHT, {**TAUGHT, "name": "panel 2"}]}, "the name panel 2 is that of one of the panel"),
        ({"probe": {"weight": 2}}, "probe.weight: with a panel weights are learned"),
    ],
)
def test_settings_that_a_panel_cannot_keep_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**changes)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"task": {"form": "numeric"}}, "labelling.panel: needs task.labels"),
        ({"training": {"kind": "openai_api"}}, "labelling.panel: would pay openai_api for 3 more models"),
        ({"selection": {"by": "learned", "learned": {"folds": 3}}}, "with labelling.panel its vote is what is learned"),
        (
            {"labelling": {"configurations": [{**TAUGHT, "weight": 2}], "justify": False, "panel": {}, "probe": {}}},
            "without a panel",
        ),
    ],
)
def test_sections_that_do_not_go_with_a_panel_are_refused(sections: dict[str, Any], said: str) -> None:
    labelling = {"configurations": [TAUGHT], "justify": False, "panel": {"adapters": 3}}
    values = {"model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "labelling": labelling} | sections
    with pytest.raises(ValidationError, match=said):
        MethodConfig.model_validate(values)
