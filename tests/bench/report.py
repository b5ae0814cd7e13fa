"""Tables and plots of what was measured."""

import json
import math
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Point", "Results", "line", "machine", "plot", "read", "write"]


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured with something grown as far as ``x``, or why it could not be."""

    sweep: str
    x: int
    figures: dict[str, float]
    failed: str = ""


#: By server, in the order in which they were measured.
Results = dict[str, list[Point]]

_ETCDS = ("put_per_s", "put_p50_ms", "put_p99_ms", "range_per_s", "range_p50_ms", "range_p99_ms")
_EVENTS = ("event_per_s", "event_p50_ms", "event_p99_ms", "cpu_us_per_event", "memory_mib")

#: What a table shows of each sweep; other figures are in the JSON file alone.
COLUMNS = {
    "clients, etcd's benchmark": _ETCDS,
    "clients over TLS, etcd's benchmark": _ETCDS,
    "clients, own load": (*_ETCDS, "put_cpu_us", "range_cpu_us"),
    "keys": (*_ETCDS, "count_ms", "page_of_500_ms", "memory_mib", "restart_s"),
    "value bytes": (*_ETCDS, "put_cpu_us", "memory_mib", "restart_s"),
    "members": (*_ETCDS, "put_cpu_us", "memory_mib", "restart_s"),
    "connections": (*_ETCDS, "put_cpu_us", "memory_mib"),
    "watchers of one key": _EVENTS,
    "watchers of 10,000 keys": _EVENTS,
    "leases": (
        "grant_per_s",
        "keep_alive_per_s",
        "keep_alive_p50_ms",
        "keep_alive_p99_ms",
        "expire_all_s",
        "memory_mib",
        "restart_s",
    ),
}
#: What is told of the most keys once more, line by line.
MOST_KEYS = {
    "count of all, ms": "count_ms",
    "page of 500 out of all, ms": "page_of_500_ms",
    "resident memory, MiB": "memory_mib",
    "restart, s": "restart_s",
    "resident memory after it, MiB": "memory_after_restart_mib",
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
    """Write results.json and results.md."""
    directory.mkdir(parents=True, exist_ok=True)
    points = {server: [asdict(point) for point in measured] for server, measured in results.items()}
    (directory / "results.json").write_text(json.dumps({**about, "points": points}, indent=1) + "\n")
    (directory / "results.md").write_text(markdown(results, about))


def read(file: Path) -> tuple[Results, dict[str, Any]]:
    """Return what ``write`` was given."""
    about = json.loads(file.read_text())
    points = about.pop("points")
    return {server: [Point(**one) for one in measured] for server, measured in points.items()}, about


def line(server: str, point: Point) -> str:
    """Return one point as a line."""
    if point.failed:
        told = f"failed: {point.failed}"
    else:
        names = COLUMNS.get(point.sweep, tuple(point.figures))
        told = "; ".join(f"{_title(name)} {_shown(point.figures.get(name))}" for name in names)
    return f"{server}, {point.sweep} {point.x:,}: {told}"


def markdown(results: Results, about: dict[str, Any]) -> str:
    """Return the tables; each cell is ours / etcd's."""
    lines = [f"{about['machine']}; {about['when']}. Each cell: ours / etcd's.", ""]
    for sweep in dict.fromkeys(point.sweep for _, point in _all(results)):
        if sweep == "long work":
            lines += _long_work(results) + _failures(results, sweep)
            continue
        columns = COLUMNS[sweep]
        lines += [
            f"| {sweep} | {' | '.join(_title(name) for name in columns)} |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for x in sorted({point.x for _, point in _all(results) if point.sweep == sweep}):
            cells = [_cell(results, sweep, x, name) for name in columns]
            lines.append(f"| {x:,} | {' | '.join(cells)} |")
        growth = [_growth(results, sweep, name) for name in columns]
        if any(growth):
            lines.append(f"| *cost, last to first* | {' | '.join(growth)} |")
        lines += ["", *_failures(results, sweep)]
        if sweep == "keys":
            lines += _most_keys(results)
    return "\n".join(lines)


def _all(results: Results) -> Iterable[tuple[str, Point]]:
    return ((server, point) for server, measured in results.items() for point in measured)


def _failures(results: Results, sweep: str) -> list[str]:
    failed = [
        f"- {line(server, point)}" for server, point in _all(results) if point.sweep == sweep and point.failed
    ]
    return [*failed, ""] if failed else []


def _most_keys(results: Results) -> list[str]:
    x = max(point.x for _, point in _all(results) if point.sweep == "keys")
    lines = [
        f"| {x:,} keys of 64 bytes, values of 256, one member | ours | etcd | times as good |",
        "|---|---|---|---|",
    ]
    for title, name in MOST_KEYS.items():
        ours, etcd = (_figure(results, server, "keys", x, name) for server in ("ours", "etcd"))
        ratio = etcd / ours if ours and etcd else None
        lines.append(f"| {title} | {_shown(ours)} | {_shown(etcd)} | {_shown(ratio)} |")
    return [*lines, ""]


def _long_work(results: Results) -> list[str]:
    lines = ["| while | longest put, ms | p99, ms | takes, s |", "|---|---|---|---|"]
    x = max(point.x for _, point in _all(results) if point.sweep == "long work")
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


def _measured(results: Results, server: str, sweep: str) -> list[Point]:
    """Return the points of a sweep that did not fail."""
    return [point for point in results.get(server, ()) if point.sweep == sweep and not point.failed]


def _growth(results: Results, sweep: str, name: str) -> str:
    """How many times as much the last point costs as the first, for either server."""
    shown = []
    measured = [{point.x for point in _measured(results, server, sweep)} for server in ("ours", "etcd")]
    compared = sorted(set.intersection(*measured))
    for server in ("ours", "etcd"):
        figures = [_figure(results, server, sweep, x, name) for x in compared]
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
        ("clients over TLS, etcd's benchmark", ("put_per_s", "put_p99_ms", "range_per_s", "range_p99_ms")),
        ("clients, own load", ("put_per_s", "put_p99_ms", "range_per_s", "range_cpu_us")),
        ("keys", ("put_p99_ms", "count_ms", "memory_mib", "restart_s")),
        ("watchers of one key", ("event_per_s", "event_p99_ms", "cpu_us_per_event", "memory_mib")),
        ("watchers of 10,000 keys", ("event_per_s", "event_p99_ms", "cpu_us_per_event", "memory_mib")),
        ("leases", ("grant_per_s", "keep_alive_per_s", "expire_all_s", "memory_mib")),
        ("connections", ("put_per_s", "put_p99_ms", "range_per_s", "memory_mib")),
        ("value bytes", ("put_per_s", "put_p99_ms", "range_per_s", "memory_mib")),
        ("members", ("put_per_s", "put_p99_ms", "put_cpu_us", "range_per_s")),
    ]
    measured = {point.sweep for _, point in _all(results)}
    panels = [(sweep, names) for sweep, names in panels if sweep in measured]
    if not panels:
        return
    figure, rows = pyplot.subplots(
        len(panels), 4, figsize=(15, 2.7 * len(panels)), squeeze=False, layout="constrained"
    )
    for (sweep, names), axes in zip(panels, rows, strict=True):
        for name, axis in zip(names, axes, strict=True):
            for server in results:
                points = _measured(results, server, sweep)
                curve = [point.x for point in points], [point.figures[name] for point in points]
                axis.plot(*curve, "o-", label=server, color=_COLOURS.get(server))
            axis.set_xscale("log")
            axis.set_ylim(bottom=0)
            axis.set_title(_title(name), fontsize=10)
            axis.set_xlabel(sweep, fontsize=8)
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize=8)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
