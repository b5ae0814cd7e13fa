"""The bench: our members beside etcd's, over everything that can grow.

    python tests/bench/bench.py [--full] [--sweeps NAME,...] [--at X,...] [--keep] [--readme]

Each sweep runs with etcd, then with ours, one after the other: the two are never up at once.  Each point is
shown as it comes; one that fails says why, and the others go on.  Written are results.json, results.md and
results.svg.  --readme also puts the tables into README.md, between its marks, and the plot where README.md
shows it.

One part alone: ``--sweeps keys``; only with so many: ``--sweeps keys --at 1000000``.  With --keep the files
keep what other sweeps measured before, so that the whole can be made part by part: at last
``--sweeps= --keep --readme``.

Needs what ``tests/kube/kube build`` compiles.  All traffic stays on 127.0.0.1.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import layers
import report
import uvloop
from servers import PROGRAMS, SERVERS
from sweeps import FULL, QUICK, SWEEPS, Sizes, Sweep

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PLOT = Path(__file__).with_name("latest.svg")
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def points(sweep: Sweep, command: str, sizes: Sizes) -> AsyncGenerator[report.Point, None]:
    """Run a sweep with one server; behind a point that fails it goes on with fresh members."""
    remaining: tuple[int, ...] = getattr(sizes, sweep.grows)
    while remaining:
        rest = replace(sizes, **{sweep.grows: remaining})
        try:
            with tempfile.TemporaryDirectory(prefix="kvcluster-bench-", dir="/var/tmp") as directory:
                async with aclosing(sweep.run(command, Path(directory), rest)) as measured:
                    async for x, figures in measured:
                        yield report.Point(sweep.title, x, figures)
                        remaining = remaining[1:]
        except Exception as error:  # Whatever it is, hours of other measurements must not be lost.
            told = " ".join(f"{type(error).__name__}: {error}".split())
            yield report.Point(sweep.title, remaining[0], {}, told)
            remaining = remaining[1:]


async def measure(
    names: list[str], sizes: Sizes, results: report.Results, out: Path, about: dict[str, Any]
) -> None:
    """Run the sweeps with either server; what there is so far is written behind each."""
    for name in names:
        for server, command in SERVERS.items():
            begun_s = time.monotonic()
            async with aclosing(points(SWEEPS[name], command, sizes)) as measured:
                async for point in measured:
                    say(report.line(server, point))
                    results[server].append(point)
            say(f"{name:20} {server:6} {time.monotonic() - begun_s:6.1f} s")
            report.write(results, out, about)


def kept(out: Path, names: list[str]) -> report.Results:
    """Return what sweeps other than these have measured before."""
    if not (out / "results.json").exists():
        return {server: [] for server in SERVERS}
    before, _ = report.read(out / "results.json")
    anew = {SWEEPS[name].title for name in names}
    return {server: [point for point in before[server] if point.sweep not in anew] for server in SERVERS}


async def profile_leader() -> str:
    with tempfile.TemporaryDirectory(prefix="kvcluster-bench-", dir="/var/tmp") as directory:
        return layers.shown(await layers.profile(SERVERS["ours"], Path(directory)))


def put_into_readme(tables: str, readme: Path = README) -> None:
    """Replace what stands between the marks."""
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{readme.name} lacks the marks {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, behind = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{tables.strip()}\n{END}{behind}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="up to 1,000,000 keys; takes an hour")
    parser.add_argument("--sweeps", default=",".join(SWEEPS), help="some of them, separated by commas")
    parser.add_argument("--at", help="only with so many keys, clients, ...; numbers separated by commas")
    parser.add_argument("--load-s", type=float, help="how long each load lasts")
    parser.add_argument("--keep", action="store_true", help="keep what other sweeps have measured before")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--no-profile", action="store_true", help="without py-spy")
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md")
    given = parser.parse_args()
    names = [name for name in given.sweeps.split(",") if name]
    if unknown := [name for name in names if name not in SWEEPS]:
        parser.error(f"no such sweep: {', '.join(unknown)}; there are {', '.join(SWEEPS)}")
    if not (PROGRAMS / "etcd").exists():
        sys.exit("build etcd and its benchmark first: tests/kube/kube build")
    about = {
        "machine": report.machine(),
        "when": time.strftime("%Y-%m-%d"),
        "sizes": "full" if given.full else "quick",
        "load_average_before": os.getloadavg(),
    }
    sizes = FULL if given.full else QUICK
    if given.at:
        exactly = tuple(int(x) for x in given.at.split(","))
        sizes = replace(sizes, **{SWEEPS[name].grows: exactly for name in names})
    if given.load_s:
        sizes = replace(sizes, load_s=given.load_s)
    results: report.Results = kept(given.out, names) if given.keep else {server: [] for server in SERVERS}
    uvloop.run(measure(names, sizes, results, given.out, about))
    report.write(results, given.out, about)
    report.plot(results, given.out / "results.svg")
    tables = (given.out / "results.md").read_text()
    if not given.no_profile:
        tables += "\n" + uvloop.run(profile_leader())
        (given.out / "results.md").write_text(tables)
    if given.readme:
        put_into_readme(tables)
        shutil.copy(given.out / "results.svg", PLOT)
    print(tables)
    sys.exit(1 if any(point.failed for point in results["ours"]) else 0)


if __name__ == "__main__":
    main()
