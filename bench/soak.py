"""Does anything grow without end? Rounds of a daemon, one after the other, with promotions and rollbacks.

`python bench/soak.py [--rounds 300] [--minutes 600] [--replicas 2 | --scripted]`

`semievol run` with a tiny model, the local stream and SQLite, every bound of retention set low so that it is reached
soon. In each round new queries come and are labelled, an adapter is trained, judged, and promoted (by hand, where the
gate says no); every third round ends with a rollback. After each round is noted, when nothing trains: resident memory,
file descriptors, threads, connections of the daemon and its children, rows by table, bytes by place. `--replicas`: so
many vLLM servers (the CPU build, as the tests start it) answer, and are noted as the daemon is. `--scripted`: two
controllers on PostgreSQL, one of which leads, with scripted answers and trainings (tests/candidate.py): a round takes
seconds. Over the second half of the rounds a line is fitted to each; its slope is shown for 100 rounds with its
interval of 95 %.

The claim: no slope but of what is kept of each round for ever (its row, events and counts, the row of its adapter).
Something counts as growing where its interval lies above 0 and 100 rounds would add more than 2 %, and more than one
(a thread, a connection, a MiB).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
from scipy import stats

sys.path.append(str(Path(__file__).parents[1]))

from semievold.store.database import Database
from semievold.store.retention import bytes_of, bytes_under, sizes
from tests.candidates import Candidates
from tests.control_world import WORKLOAD
from tests.daemon_process import COLOURS, DaemonProcess, easy_query, example, tiny_config
from tests.servers.postgres import PostgresServer
from tests.servers.vllm import VllmServer, make_served_model, need_vllm, running

EXAMPLES = 40
QUERIES = 12
FOR_EVER = frozenset({"rounds", "round_events", "adapters", "operator_requests"})
"""Tables that keep something of each round; requests stay for 90 days."""
GROWS = 0.02
BOUNDS = ("min_answers", "min_real_share", "max_depth", "max_anchor_disagreement", "max_duplicates")


def settings(directory: Path, replicas: Sequence[VllmServer]) -> Path:
    asked: dict[str, dict[str, object]] = {}
    if replicas:
        asked["model"] = {"name": str(replicas[0].model), "dtype": "float32", "device": "cpu"}
        urls = [replica.url for replica in replicas]
        asked["generation"] = {"threads": None, "kind": "vllm", "replicas": urls}
    return tiny_config(
        directory,
        **asked,
        store={"retention": {"pseudo_labels": 60, "interval_s": 5.0}},
        stream={"retention_s": 20.0},
        rounds={"max_pool": 40},
        artifacts={"directory": str(directory / "data"), "keep_rounds": 2, "keep_adapters": 2},
        # Taught without neighbours, so tiny a model answers few prompts that show any: nothing would be selected.
        labelling={"configurations": [{"name": "greedy", "temperature": 0.0, "neighbours": 0}], "justify": False},
        training={"learning_rate": 0.01, "warm_epochs": 20, "epochs": 10, "checkpoint_steps": 50, "threads": 1},
        trigger={"min_examples": 10, "labels_quiet_s": 1.0, "new_pseudo_labels": None, "min_new": 1},
        breaker=dict.fromkeys(BOUNDS),
    )


def noted(processes: Mapping[str, int], database: Database, data: Path) -> dict[str, float]:
    """What is there now, by name."""
    seen: dict[str, float] = {}
    for called, pid in processes.items():
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        seen[f"{called}: resident MiB"] = sum(each.memory_info().rss for each in family) / 2**20
        seen[f"{called}: file descriptors"] = sum(each.num_fds() for each in family)
        seen[f"{called}: threads"] = sum(each.num_threads() for each in family)
        seen[f"{called}: connections"] = sum(len(each.net_connections()) for each in family)
        seen[f"{called}: children"] = len(family) - 1
    for place in ("rounds", "adapters"):
        seen[f"bytes of {place}/"] = bytes_under(data / place)
    tables = sizes(database, WORKLOAD if database.file is None else "tiny")
    by_name = {size.table: size.bytes for size in tables}
    for size in tables:
        if size.rows:
            seen[f"rows of {size.table}"] = size.rows
    if None in by_name.values():
        raise SystemExit("this SQLite does not tell the bytes of a table: it was built without dbstat")
    kept = sum(by_name[name] or 0 for name in FOR_EVER)
    whole = sum(size or 0 for size in by_name.values())
    if database.file is not None:  # with its log, and what is free in it
        whole = bytes_of(database.file.parent.glob(f"{database.file.name}*"))
    seen["bytes of the state but for these"] = whole - kept
    return seen


def one_round(daemon: DaemonProcess, number: int, asked: int) -> str:
    """New queries, a round on them, a promotion; how the round ended."""
    daemon.publish("queries", [easy_query(n) for n in range(asked, asked + QUERIES)])
    daemon.wait_until(lambda: daemon.get(f"/v1/explain/q{asked + QUERIES - 1}").status_code == 200, 300.0)
    daemon.wait_until(lambda: daemon.post("/v1/rounds", {"kind": "evolve"}).status_code < 300, 300.0)
    daemon.wait_until(lambda: daemon.rounds()[0]["number"] >= number and daemon.status()["round"] is None, 600.0)
    round_ = daemon.rounds()[0]
    adapter = round_["adapter"]
    if round_["state"] not in ("settled", "promoted") and adapter is not None:
        daemon.post(f"/v1/adapters/{adapter}/promote", {})
    if number % 3 == 0:
        daemon.post("/v1/rollback", {})
    daemon.chat(f"{COLOURS[number % len(COLOURS)]} 1").raise_for_status()
    return str(round_["state"])


def progress(seen: Sequence[dict[str, float]], states: Mapping[str, int], began: float) -> None:
    """A line after every tenth round: a soak takes hours."""
    if len(seen) % 10 == 0:
        resident = ", ".join(f"{name} {value:.0f}" for name, value in seen[-1].items() if name.endswith("resident MiB"))
        minutes = (time.monotonic() - began) / 60
        print(f"{len(seen)} rounds in {minutes:.0f} minutes: {dict(states)}; {resident}", flush=True)


def slope(values: Sequence[float]) -> tuple[float, float, float]:
    """Least squares over the numbers of the values: slope for 100 rounds, and its interval of 95 %."""
    fitted = stats.linregress(range(len(values)), values)
    reach = float(stats.t.ppf(0.975, len(values) - 2) * fitted.stderr)
    return 100 * fitted.slope, 100 * (fitted.slope - reach), 100 * (fitted.slope + reach)


def show(seen: Sequence[dict[str, float]]) -> list[str]:
    """A line for each; the names of what grows and should not."""
    half = seen[len(seen) // 2 :]
    names = sorted({name for each in half for name in each})
    growing = []
    head = f"the last {len(half)} rounds"
    print(f"{head:<36}{'median':>14}{'more in 100 rounds':>22}  interval of 95 %")
    for name in names:
        values = [each.get(name, 0.0) for each in half]
        middle = statistics.median(values)
        more, low, high = slope(values)
        kept = name.removeprefix("rows of ") in FOR_EVER
        grows = low > 0 and more > max(GROWS * middle, 1.0) and not kept
        if grows:
            growing.append(name)
        said = "  grows" if grows else "  kept for ever" if kept else ""
        print(f"{name:<36}{middle:>14,.0f}{more:>22,.1f}  {low:,.1f} to {high:,.1f}{said}")
    return growing


def whole(rounds: int, deadline: float, seen: list[dict[str, float]], states: Counter[str], replicas: int = 0) -> int:
    """Rounds of a whole daemon, on so many vLLM servers (0: its own engine); how often the alias has moved."""
    began = time.monotonic()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        servers: list[VllmServer] = []
        if replicas:
            need_vllm()
            model = make_served_model(Path(directory) / "served")
            servers = [VllmServer(model, Path(directory)) for _ in range(replicas)]
            stack.enter_context(running(*servers))
        daemon = DaemonProcess(settings(Path(directory), servers))
        engines = {f"vLLM {number}": server.pid for number, server in enumerate(servers)}
        daemon.start()
        try:
            daemon.wait_until(lambda: daemon.get("/healthz").status_code == 200, 600.0)
            daemon.publish("labels", [example(number) for number in range(EXAMPLES)])
            daemon.wait_until(lambda: daemon.rounds() and daemon.status()["round"] is None, 900.0)
            database = Database(f"sqlite:///{daemon.data / 'state.db'}", "tiny")
            for number in range(1, rounds + 1):
                states[one_round(daemon, number, number * QUERIES)] += 1
                seen.append(noted({"daemon": daemon.pid, **engines}, database, daemon.data))
                progress(seen, states, began)
                if time.monotonic() > deadline:
                    break
            database.close()
            return int(daemon.status()["promotions"])
        finally:
            daemon.stop()


def scripted(rounds: int, deadline: float, seen: list[dict[str, float]], states: Counter[str]) -> int:
    """Rounds of two controllers; how often the alias has moved."""
    began = time.monotonic()
    server = PostgresServer()
    try:
        server.start()
        with tempfile.TemporaryDirectory() as directory:
            candidates = Candidates(server, Path(directory), witness=False)
            try:
                candidates.settle(1)
                for number in range(1, rounds + 1):
                    candidates.ask()
                    candidates.settle(number + 1)
                    states[candidates.stores.rounds.all(1)[0].state.value] += 1
                    if number % 3 == 0:
                        candidates.rollback()
                    leader = candidates.leader()
                    pids = {"leader" if each is leader else "standby": each.pid for each in candidates.processes}
                    seen.append(noted(pids, candidates.stores.database, Path(directory)))
                    progress(seen, states, began)
                    if time.monotonic() > deadline:
                        break
                return candidates.stores.alias.get().generation
            finally:
                candidates.close()
    finally:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=600.0, help="stop earlier after so long")
    parser.add_argument("--replicas", type=int, default=0, help="vLLM servers that answer; 0: the daemon itself")
    parser.add_argument("--scripted", action="store_true")
    options = parser.parse_args()
    seen: list[dict[str, float]] = []
    states: Counter[str] = Counter()
    began = time.monotonic()
    deadline = began + 60 * options.minutes
    if options.scripted:
        moves = scripted(options.rounds, deadline, seen, states)
    else:
        moves = whole(options.rounds, deadline, seen, states, options.replicas)
    minutes = (time.monotonic() - began) / 60
    print(f"{len(seen)} rounds in {minutes:.0f} minutes: {dict(states)}; the alias moved {moves} times")
    print(f"grows: {', '.join(show(seen)) or 'nothing'}")


if __name__ == "__main__":
    main()
