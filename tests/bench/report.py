"""Tables and plots of what was measured."""

import json
import math
import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeps import Point

__all__ = ["Results", "machine", "write"]

#: By server, in the order in which they were measured.
Results = dict[str, list[Point]]

_EVENTS = ("event_per_s", "event_p50_ms", "event_p99_ms", "cpu_us_per_event", "memory_mib")

#: What a table shows of each sweep; other figures are in the JSON file alone.
COLUMNS = {
    "clients, etcd's benchmark": ("put_per_s", "put_p99_ms", "range_per_s", "range_p99_ms"),
    "clients, own load": (
        "put_per_s",
        "put_p50_ms",
        "put_p99_ms",
        "put_cpu_us",
        "range_per_s",
        "range_cpu_us",
    ),
    "keys": (
        "put_p50_ms",
        "put_p99_ms",
        "count_ms",
        "page_of_500_ms",
        "memory_mib",
        "restart_s",
        "memory_after_restart_mib",
    ),
    "value bytes": ("put_per_s", "put_p99_ms", "put_cpu_us", "range_per_s", "memory_mib"),
    "members": ("put_per_s", "put_p99_ms", "put_cpu_us", "range_per_s", "range_cpu_us", "memory_mib"),
    "connections": ("put_per_s", "put_p99_ms", "put_cpu_us", "range_per_s", "memory_mib"),
    "watchers of one key": ("event_per_s", "event_p50_ms", "event_p99_ms", "cpu_us_per_event", "memory_mib"),
    "watchers of 10,000 keys": (
        "event_per_s",
        "event_p50_ms",
        "event_p99_ms",
        "cpu_us_per_event",
        "memory_mib",
    ),
    "leases": ("grant_per_s", "keep_alive_per_s", "keep_alive_p99_ms", "expire_all_s", "memory_mib"),
}
WORKS = ("nothing", "list", "compaction", "snapshot", "defragmentation", "catch_up", "delete")

#: Figures of which more is better; of all others, less.
_RATES = ("_per_s",)

_COLOURS = {"etcd": "tab:blue", "ours": "tab:orange"}


def machine() -> str:
    """Return what the figures depend on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    name = model.group(1) if model else platform.machine()
    gibibytes = int(memory.group(1)) / 2**20 if memory else math.nan
    return (
        f"{os.cpu_count()} cores ({name}), {gibibytes:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}"
    )


def write(results: Results, directory: Path, about: dict[str, Any]) -> None:
    """Write results.json, results.md and results.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    points = {server: [asdict(point) for point in measured] for server, measured in results.items()}
    (directory / "results.json").write_text(json.dumps({**about, "points": points}, indent=1) + "\n")
    (directory / "results.md").write_text(markdown(results, about))
    plot(results, directory / "results.svg")


def read(file: Path) -> tuple[Results, dict[str, Any]]:
    """Return what ``write`` was given."""
    about = json.loads(file.read_text())
    points = about.pop("points")
    return {server: [Point(**one) for one in measured] for server, measured in points.items()}, about


def markdown(results: Results, about: dict[str, Any]) -> str:
    """Return the tables; each cell is ours / etcd's."""
    lines = [f"{about['machine']}; {about['when']}. Each cell: ours / etcd's.", ""]
    sweeps = list(dict.fromkeys(point.sweep for measured in results.values() for point in measured))
    for sweep in sweeps:
        if sweep == "long work":
            lines += _long_work(results)
            continue
        columns = COLUMNS[sweep]
        lines += [
            f"| {sweep} | {' | '.join(_title(name) for name in columns)} |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for x in sorted(
            {point.x for measured in results.values() for point in measured if point.sweep == sweep}
        ):
            cells = [_cell(results, sweep, x, name) for name in columns]
            lines.append(f"| {x:,} | {' | '.join(cells)} |")
        growth = [_growth(results, sweep, name) for name in columns]
        if any(growth):
            lines.append(f"| *cost, last to first* | {' | '.join(growth)} |")
        lines.append("")
    return "\n".join(lines)


def _long_work(results: Results) -> list[str]:
    lines = ["| while | longest put, ms | p99, ms | takes, s |", "|---|---|---|---|"]
    x = max(point.x for measured in results.values() for point in measured if point.sweep == "long work")
    for work in WORKS:
        cells = [
            _cell(results, "long work", x, f"{work}_{figure}") for figure in ("put_max_ms", "put_p99_ms", "s")
        ]
        lines.append(f"| {work.replace('_', ' ')} ({x:,} keys) | {' | '.join(cells)} |")
    return [*lines, ""]


def _figure(results: Results, server: str, sweep: str, x: int, name: str) -> float | None:
    for point in results.get(server, ()):
        if (point.sweep, point.x) == (sweep, x):
            return point.figures.get(name)
    return None


def _cell(results: Results, sweep: str, x: int, name: str) -> str:
    return " / ".join(_shown(_figure(results, server, sweep, x, name)) for server in ("ours", "etcd"))


def _growth(results: Results, sweep: str, name: str) -> str:
    """How many times as much the last point costs as the first, for either server."""
    shown = []
    for server in ("ours", "etcd"):
        figures = [point.figures.get(name) for point in results.get(server, ()) if point.sweep == sweep]
        if len(figures) < 2 or not figures[0] or not figures[-1]:
            return ""
        ratio = figures[0] / figures[-1] if name.endswith(_RATES) else figures[-1] / figures[0]
        shown.append(f"{ratio:.1f}x")
    return " / ".join(shown)


def _shown(figure: float | None) -> str:
    if figure is None or math.isnan(figure):
        return "-"
    if figure >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 1 else f"{figure:.2f}"


def _title(name: str) -> str:
    words = name.split("_")
    if words[-2:] == ["per", "s"]:
        return " ".join([*words[:-2], "1/s"])
    units = {"ms": "ms", "s": "s", "mib": "MiB", "us": "us"}
    return f"{' '.join(words[:-1])}, {units[words[-1]]}" if words[-1] in units else " ".join(words)


def plot(results: Results, file: Path) -> None:
    """Draw a curve for each server over what grew, a row of panels to a sweep."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"
    from matplotlib import pyplot

    panels = [
        ("clients, etcd's benchmark", ("put_per_s", "put_p99_ms", "range_per_s", "range_p99_ms")),
        ("clients, own load", ("put_per_s", "put_p99_ms", "range_per_s", "range_cpu_us")),
        ("keys", ("put_p99_ms", "count_ms", "memory_mib", "restart_s")),
        ("watchers of one key", ("event_per_s", "event_p99_ms", "cpu_us_per_event", "memory_mib")),
        ("watchers of 10,000 keys", ("event_per_s", "event_p99_ms", "cpu_us_per_event", "memory_mib")),
        ("leases", ("grant_per_s", "keep_alive_per_s", "expire_all_s", "memory_mib")),
        ("connections", ("put_per_s", "put_p99_ms", "range_per_s", "memory_mib")),
        ("value bytes", ("put_per_s", "put_p99_ms", "range_per_s", "memory_mib")),
        ("members", ("put_per_s", "put_p99_ms", "put_cpu_us", "range_per_s")),
    ]
    measured = {point.sweep for points in results.values() for point in points}
    panels = [(sweep, names) for sweep, names in panels if sweep in measured]
    if not panels:
        return
    figure, rows = pyplot.subplots(
        len(panels), 4, figsize=(15, 2.7 * len(panels)), squeeze=False, layout="constrained"
    )
    for (sweep, names), axes in zip(panels, rows, strict=True):
        for name, axis in zip(names, axes, strict=True):
            for server, points in results.items():
                curve = [(point.x, point.figures[name]) for point in points if point.sweep == sweep]
                axis.plot(*zip(*curve, strict=True), "o-", label=server, color=_COLOURS.get(server))
            axis.set_xscale("log")
            axis.set_ylim(bottom=0)
            axis.set_title(_title(name), fontsize=10)
            axis.set_xlabel(sweep, fontsize=8)
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize=8)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
