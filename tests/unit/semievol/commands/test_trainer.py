"""What was not trained on is said where the training ends, not in its log alone."""

import logging
from pathlib import Path

import pytest

from semievol.adapter_directory import CONFIG_FILE, WEIGHTS_FILE, publish
from semievol.commands.trainer import left_out_of_training


def adapter(directory: Path, **training: object) -> Path:
    work = directory / "work"
    work.mkdir()
    (work / CONFIG_FILE).write_text("{}")
    (work / WEIGHTS_FILE).write_bytes(b"weights")
    return publish(work, directory, "r0001", base_model="m", parent=None, round_number=1, seed=0, training=training)


def test_each_row_that_was_left_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = adapter(tmp_path, left_out={"bad": "the chat template refuses it"}, rows_left_out=3)
    with caplog.at_level(logging.WARNING):
        assert left_out_of_training(made) == {"bad": "the chat template refuses it"}
    assert caplog.messages == [
        "row bad is left out of the training: the chat template refuses it",
        "2 more rows are left out of the training",
    ]


def test_where_all_were_trained_on_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert left_out_of_training(adapter(tmp_path)) == {}
    assert caplog.messages == []
