"""``make chaos``: real members under faults and load, and a judgement of what their clients saw."""

import argparse
import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path

from kvtest.chaos import linear, report
from kvtest.chaos.clock import Clock
from kvtest.chaos.nemesis import FAULTS
from kvtest.chaos.network import missing_tools, start_inside
from kvtest.chaos.run import Settings, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of faults (MINUTES=)")
    parser.add_argument("--members", type=int, choices=(3, 5), default=3, help="(MEMBERS=)")
    parser.add_argument("--seed", type=int, default=None, help="of faults and load (SEED=)")
    parser.add_argument("--faults", default="", help=f"kinds, separated by commas, of: {', '.join(FAULTS)}")
    parser.add_argument(
        "--output", type=Path, default=Path("build/chaos"), help="folder for all that is left"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [kind for kind in options.faults.split(",") if kind and kind not in FAULTS]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}")
    if options.inside:
        return _inside(options)
    missing = missing_tools()
    if missing:
        print(f"make chaos needs, and can't find: {', '.join(missing)}", file=sys.stderr)
        return 2
    try:
        linear.build()
        Clock.build()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f"make chaos needs Go for porcupine: {error}", file=sys.stderr)
        return 2
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    directory = _fresh(options.output / f"seed-{seed}")
    return start_inside(
        [
            *("--minutes", str(options.minutes), "--members", str(options.members), "--seed", str(seed)),
            *("--faults", options.faults, "--output", str(directory), "--inside"),
        ]
    )


def _fresh(directory: Path) -> Path:
    """Make a folder of that name, or with a number behind it if there is one."""
    number = 1
    chosen = directory
    while chosen.exists():
        number += 1
        chosen = directory.with_name(f"{directory.name}-{number}")
    chosen.mkdir(parents=True)
    return chosen.resolve()


def _inside(options: argparse.Namespace) -> int:
    # The first process of a namespace is ended by no signal that it does not handle.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = options.output
    kinds = tuple(kind for kind in options.faults.split(",") if kind) or tuple(FAULTS)
    settings = Settings(
        minutes=options.minutes, members=options.members, seed=options.seed, directory=directory, kinds=kinds
    )
    print(
        f"chaos: {settings.members} members, {settings.minutes:g} minutes, seed {settings.seed}; {directory}"
    )
    try:
        outcome = asyncio.run(run(settings))
    except KeyboardInterrupt:
        print(f"chaos: interrupted; histories and logs are in {directory}")
        return 130
    text = report.table(outcome)
    (directory / "report.md").write_text(text)
    report.plot(outcome.history, directory / "timeline.svg")
    print(f"\n{text}\nHistories, logs and timeline.svg are in {directory}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
