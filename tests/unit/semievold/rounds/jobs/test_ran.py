"""The deadline's clock: it counts while all pods run, over evictions, changes of leader and waits."""

from __future__ import annotations

from pathlib import Path

from semievold.rounds.jobs.ran import RAN_FILE, RunningTime

NOBODY: frozenset[str] = frozenset()
A, B = frozenset({"a"}), frozenset({"b"})


def test_time_counts_between_two_looks_at_the_same_pods(tmp_path: Path) -> None:
    ran = RunningTime(tmp_path, "j")
    assert [ran.seen(A, at) for at in (100.0, 103.0, 110.0)] == [0.0, 3.0, 10.0]


def test_waiting_counts_nothing_before_between_and_after(tmp_path: Path) -> None:
    ran = RunningTime(tmp_path, "j")
    assert ran.seen(NOBODY, 0.0) == 0.0
    assert ran.seen(A, 5_000.0) == 0.0
    assert ran.seen(A, 5_010.0) == 10.0
    assert ran.seen(NOBODY, 5_020.0) == 10.0  # evicted, some time since the last look
    assert ran.seen(NOBODY, 9_000.0) == 10.0
    assert ran.seen(B, 9_100.0) == 10.0
    assert ran.seen(B, 9_101.0) == 11.0


def test_the_next_leader_counts_on_also_what_nobody_looked_at(tmp_path: Path) -> None:
    RunningTime(tmp_path, "j").seen(A, 100.0)
    assert RunningTime(tmp_path, "j").seen(A, 160.0) == 60.0


def test_another_training_starts_at_nought(tmp_path: Path) -> None:
    RunningTime(tmp_path, "j").seen(A, 100.0)
    RunningTime(tmp_path, "j").seen(A, 200.0)
    assert RunningTime(tmp_path, "k").seen(A, 300.0) == 0.0


def test_a_clock_that_was_set_back_and_a_file_that_was_cut_count_nothing(tmp_path: Path) -> None:
    ran = RunningTime(tmp_path, "j")
    ran.seen(A, 100.0)
    assert ran.seen(A, 50.0) == 0.0
    (tmp_path / RAN_FILE).write_text('{"name": "j", "ra', "utf-8")
    assert ran.seen(A, 60.0) == 0.0


def test_nothing_is_written_for_a_job_that_only_waits(tmp_path: Path) -> None:
    RunningTime(tmp_path / "work", "j").seen(NOBODY, 1.0)
    assert not (tmp_path / "work").exists()
