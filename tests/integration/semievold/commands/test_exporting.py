"""`labels export`: the examples of the state, out and in again without a change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from semievol.config.method import TaskConfig
from semievol.errors import ConfigError
from semievol.examples.files import read_examples
from semievol.tasks.task import Task
from semievol.types import Example, Query
from semievold.commands.exporting import export_labels
from semievold.store.stores import Stores, open_stores

EXAMPLES = [Example(Query(f"e{number}", f"red {number}"), "red", "crm") for number in range(4)]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    opened = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    opened.examples.upsert([(example, number == 1) for number, example in enumerate(EXAMPLES)])
    opened.examples.retract(["e3"])
    yield opened
    opened.database.close()


@pytest.mark.parametrize(("side", "ids"), [("all", "012"), ("training", "02"), ("holdout", "1")])
def test_what_was_labelled_comes_out_and_goes_in_unchanged(stores: Stores, tmp_path: Path, side: str, ids: str) -> None:
    path = tmp_path / "out.csv"
    report = export_labels(stores, str(path), form="text-label", side=side, overwrite=False)
    assert report == {"file": str(path), "form": "text-label", "examples": len(ids)}
    found = read_examples(path, Task(TaskConfig()))
    assert found == [EXAMPLES[int(number)] for number in ids]
    assert {stored.change for stored in stores.examples.upsert([(example, False) for example in found])} == {"same"}


def test_a_file_is_replaced_only_when_told_so(stores: Stores, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is there already; name another file, or add --overwrite"):
        export_labels(stores, str(path), form="own", side="all", overwrite=False)
    assert path.read_text() == "mine"
    export_labels(stores, str(path), form="own", side="all", overwrite=True)
    assert len(path.read_text().splitlines()) == 3


def test_to_standard_output_it_writes_lines_alone(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_labels(stores, "-", form="openai", side="holdout", overwrite=False) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith('{"messages": [{"role": "user", "content": "red 1"}')


@pytest.mark.parametrize(
    ("form", "side", "option"), [("xml", "all", "--form: 'xml'"), ("own", "left", "--side: 'left'")]
)
def test_an_unknown_option_names_the_known_ones(stores: Stores, form: str, side: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} is none of"):
        export_labels(stores, "-", form=form, side=side, overwrite=False)


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"~nobody-of-this-name/x\.csv: ~nobody-of-this-name is no user of this machine"
    ):
        export_labels(stores, "~nobody-of-this-name/x.csv", form="own", side="all", overwrite=False)
    path = tmp_path / "no-such-directory" / "out.csv"
    with pytest.raises(FileNotFoundError) as failed:
        export_labels(stores, str(path), form="own", side="all", overwrite=False)
    assert failed.value.filename == str(path)
