"""Runs the simulation over many seeds, and says what was done and what was found.

``make sim SEEDS=200``; a failing run is made shorter and named by one line, which ``make sim REPLAY=...``
repeats with its last steps.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import count, islice
from multiprocessing import get_context

from kvtest.sim_plan import PLANS, SimPlan, decode_acts, encode_acts, plan_of, schedule_of
from kvtest.sim_shrink import Failure, attempt, shrink
from kvtest.sim_world import SimWorld

__all__ = ["CHECKED", "FAULTS", "main", "replay", "replay_name", "run_seed"]

#: Runs that making a failure shorter may take.
SHRINK_RUNS = 200

#: Rows of the report: what is counted -> what it is called.
FAULTS = {
    "lost": "messages lost",
    "duplicated": "messages doubled",
    "late": "messages late, so reordered",
    "partition": "partitions",
    "one-way partition": "of them one way",
    "crash": "crashes between two effects",
    "freeze": "processes or machines frozen",
    "clock jump": "clocks set forward",
    "slow disk": "slow disks",
    "stalled disk": "stalled disks",
    "full disk": "full disks",
    "failed sync": "failing fsyncs",
    "bit flip": "bits flipped on disk",
    "damaged stream": "bits flipped in snapshots",
    "wiped disk": "disks wiped",
    "transfer": "leadership transfers",
    "changed": "membership changes",
    "snapshot installed": "snapshots to lagging members",
    "trim": "logs compacted",
    "users changed": "changes of users",
    "alarm": "alarms raised or cleared",
}
CHECKED = {
    "acknowledged": "acknowledged writes found",
    "read": "linearizable reads",
    "calls checked": "calls in linearizability checks",
    "undecided keys": "keys left undecided",
    "events": "watch responses",
    "progress": "watch bookmarks",
    "renewed": "lease renewals",
    "delivered": "raft messages",
    "leaders": "elections won",
    "damage found": "damages found, status 13",
    "identity refused": "wiped members refused, status 10",
}


def replay_name(failure: Failure, plan_name: str) -> str:
    """Return one line that names a run: plan, seed, and what of its schedule is left, if not all."""
    plan = PLANS[plan_name]
    name = f"{plan_name}/{failure.seed}"
    acts = schedule_of(failure.seed, plan)
    if list(failure.acts) != acts or failure.plan != plan or failure.network:
        name += f"/{failure.network}/{failure.plan.seconds!r}/{encode_acts(failure.acts)}"
    return name


def replay(name: str) -> Failure | None:
    """Repeat a run by its name."""
    plan_name, seed, *rest = name.split("/")
    plan = PLANS[plan_name]
    acts = schedule_of(int(seed), plan)
    network = 0
    if rest:
        network = int(rest[0])
        plan = replace(plan, seconds=float(rest[1]))
        acts = decode_acts(rest[2], acts)
    return attempt(plan, int(seed), acts, network)


def run_seed(seed: int, plan_name: str) -> tuple[Counter[str], Failure | None]:
    """Run one seed; return what was counted, and how it failed."""
    plan: SimPlan = PLANS[plan_name]
    world = SimWorld(seed, plan)
    failure = None
    try:
        world.run()
    except Exception as error:
        failure = Failure(plan, seed, world.acts, 0, world.elapsed_s, error)
    world.counts["steps"] += world.steps
    return world.counts, failure


def _work(seed: int, plan_name: str) -> tuple[Counter[str], str, str, str]:
    """What a worker does: counts, and of a failure its name, what it says, and its shorter form."""
    counts, failure = run_seed(seed, plan_name)
    if failure is None:
        return counts, "", "", ""
    notes: list[str] = []
    text = str(failure)
    name = replay_name(failure, plan_name)
    short = shrink(failure, SHRINK_RUNS, notes.append)
    return counts, name, text, f"{notes[-1]}\n{replay_name(short, plan_name)}"


def _report(seeds: int, took_s: float, counts: Counter[str], failures: list[str]) -> str:
    rows = [
        ("seeds", seeds),
        ("steps", counts["steps"]),
        *((title, counts[what]) for what, title in FAULTS.items()),
        *((title, counts[what]) for what, title in CHECKED.items()),
        ("violations", len(failures)),
        ("seeds per minute", round(seeds * 60 / took_s)),
    ]
    return "\n".join(f"| {title} | {number:,} |" for title, number in rows)


def _seeds(first: int, number: int, plan_name: str) -> Iterator[tuple[int, str]]:
    seeds = count(first) if number <= 0 else range(first, first + number)
    for seed in seeds:
        yield seed, plan_name or plan_of(seed)[0]


def main() -> int:
    """Parse, run, report; 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many; 0: until the time is up")
    parser.add_argument("--first", type=int, default=0, help="where they begin")
    parser.add_argument("--plan", choices=["", *PLANS], default="", help="only this plan; else all in turn")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after this long; 0: never")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--replay", default="", help="repeat one run by its name")
    options = parser.parse_args()
    if options.replay:
        failure = replay(options.replay)
        if failure is None:
            print("this run holds")
            return 0
        print("\n".join(getattr(failure.error, "__notes__", [])))
        print(f"after {failure.at_s:.3f} s: {failure}")
        return 1
    return _run_all(options)


def _run_all(options: argparse.Namespace) -> int:
    begun_s = told_s = time.monotonic()
    until_s = begun_s + options.minutes * 60 if options.minutes else float("inf")
    total: Counter[str] = Counter()
    failures: list[str] = []
    done = 0
    work = _seeds(options.first, options.seeds, options.plan)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        running: dict[Future[tuple[Counter[str], str, str, str]], int] = {}
        while True:
            if time.monotonic() < until_s:
                for seed, plan_name in islice(work, options.jobs * 2 - len(running)):
                    running[pool.submit(_work, seed, plan_name)] = seed
            if not running:
                break
            finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in finished:
                del running[future]
                counts, name, text, short = future.result()
                total += counts
                done += 1
                if name:
                    failures.append(name)
                    notes, _, short_name = short.partition("\n")
                    print(f"FAILED {name}: {text}\n  {notes}; replay with\n  make sim REPLAY='{short_name}'")
            if time.monotonic() - told_s >= 10.0:
                told_s = time.monotonic()
                print(
                    f"{done} seeds, {done * 60 / (told_s - begun_s):.0f} a minute, {len(failures)} failed",
                    flush=True,
                )
    print(_report(done, time.monotonic() - begun_s, total, failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
