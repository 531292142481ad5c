"""What the guard before vLLM costs: the same completions from vLLM, directly and through HAProxy as k8s/ ships it.

`python bench/guard.py [--seconds 4] [--rounds 8] [--model-dir DIR] [--instant]`

vLLM (its CPU build with the tests' tiny model, or that of `--model-dir`) has half of the cores to itself; guard and
clients have the others, as in a pod on a GPU the guard has cores that the model does not compute on. Direct and guarded
runs alternate, and so does who begins; what is shown are medians over the pairs, with the smallest and the largest.
Exits with 1 when the median costs more than 3 % of throughput, whole answers or streamed. `--instant` asks a server
that answers at once in place of vLLM, which shows the time of a request in the guard, and judges nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway import CLIENTS, SHORT, START_S, TOKEN, Target, load, process, run_instant

from semievold.event_loop import run_loop

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "k8s" / "components" / "vllm" / "haproxy.cfg"
MOST = 0.03


def compare(direct: Target, guarded: Target, options: argparse.Namespace, *, stream: bool) -> float:
    """The share of throughput that the guard costs, by the median pair."""
    for target in (direct, guarded):
        run_loop(load(target, 1.0, stream=stream, pace_s=0.0))  # warm
    rates: list[tuple[float, float]] = []
    for turn in range(options.rounds):
        order = (direct, guarded) if turn % 2 == 0 else (guarded, direct)
        found = {each.name: run_loop(load(each, options.seconds, stream=stream, pace_s=0.0)) for each in order}
        rates.append((found["direct"].requests_per_s, found["guarded"].requests_per_s))
    ratios = sorted(through / plain for plain, through in rates)
    ratio = statistics.median(ratios)
    plain, through = (statistics.median(each) for each in zip(*rates, strict=True))
    print(
        f"{'stream' if stream else 'whole':<8} {plain:>8.1f} {through:>8.1f}   throughput x{ratio:.3f} "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f}), {1e3 * CLIENTS * (1 / through - 1 / plain):+.2f} ms a request",
        flush=True,
    )
    return 1.0 - ratio


@contextmanager
def served(options: argparse.Namespace, directory: Path) -> Iterator[str]:
    """What is guarded, on half of the cores; this process has the others from then on."""
    from tests.servers import vllm

    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    # What is started inherits the cores of who starts it.
    os.sched_setaffinity(0, cores[:half])
    if options.instant:
        with process(run_instant) as (url, _):
            os.sched_setaffinity(0, cores[half:] or cores)
            yield url
        return
    vllm.need_vllm()
    model = options.model_dir or vllm.make_served_model(directory / "model")
    dtype = "bfloat16" if options.model_dir else "float32"
    server = vllm.VllmServer(model, directory, dtype=dtype, threads=half, arguments=SHORT)
    server.start()
    os.sched_setaffinity(0, cores[half:] or cores)
    try:
        server.wait(START_S)
        yield server.url
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one run")
    parser.add_argument("--rounds", type=int, default=8, help="pairs of runs")
    parser.add_argument("--model-dir", type=Path, help="what vLLM serves; the tests' tiny model unless given")
    parser.add_argument("--instant", action="store_true", help="a server that answers at once in place of vLLM")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.servers.guard import guarding

    with tempfile.TemporaryDirectory() as folder, served(options, Path(folder)) as url:
        tokens = {"control": "token-of-control", "serving": TOKEN}
        with guarding(CONFIG, int(url.rpartition(":")[2]), tokens, Path(folder)) as guard:
            direct, guarded = Target("direct", url, "base"), Target("guarded", guard.url, "base")
            print(f"{'requests/s':<8} {'direct':>6} {'guarded':>8}")
            cost = max(compare(direct, guarded, options, stream=stream) for stream in (False, True))
    if options.instant:
        return 0
    print(f"the guard costs {cost:.1%} of throughput at most; {MOST:.0%} are allowed")
    return 0 if cost <= MOST else 1


if __name__ == "__main__":
    raise SystemExit(main())
