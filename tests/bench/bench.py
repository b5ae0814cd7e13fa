"""The bench: our members beside etcd's, over everything that can grow.

    python tests/bench/bench.py [--full] [--sweeps NAME,...] [--out DIRECTORY] [--readme]

Each sweep runs with etcd, then with ours, one after the other: the two are never up at once.  Written are
results.json, results.md and results.svg.  --readme also puts the tables into README.md, between its marks,
and the plot where README.md shows it.

Needs what ``tests/kube/kube build`` compiles.  All traffic stays on 127.0.0.1.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import layers
import report
import uvloop
from servers import PROGRAMS, SERVERS
from sweeps import FULL, QUICK, SWEEPS, Sizes

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PLOT = Path(__file__).with_name("latest.svg")
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


async def measure(names: list[str], sizes: Sizes) -> report.Results:
    """Run the sweeps with either server."""
    results: report.Results = {server: [] for server in SERVERS}
    for name in names:
        for server, command in SERVERS.items():
            begun_s = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="kvcluster-bench-", dir="/var/tmp") as directory:
                async for point in SWEEPS[name](command, Path(directory), sizes):
                    results[server].append(point)
            print(f"{name:20} {server:6} {time.monotonic() - begun_s:6.1f} s", file=sys.stderr, flush=True)
    return results


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
    results = uvloop.run(measure(names, FULL if given.full else QUICK))
    report.write(results, given.out, about)
    tables = (given.out / "results.md").read_text()
    if not given.no_profile:
        tables += "\n" + uvloop.run(profile_leader())
        (given.out / "results.md").write_text(tables)
    if given.readme:
        put_into_readme(tables)
        shutil.copy(given.out / "results.svg", PLOT)
    print(tables)


if __name__ == "__main__":
    main()
