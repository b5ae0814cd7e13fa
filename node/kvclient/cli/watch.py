"""watch: changes of keys until interrupted, shown or handed to a command."""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
from kvnode.pb import kv_pb2

from kvclient.cli.app import KvctlCommand
from kvclient.cli.kv import key_range_of
from kvclient.cli.session import CommandFailedError, session
from kvclient.cli.values import split_words
from kvclient.client import Client
from kvclient.errors import CompactedError, WatchCanceledError
from kvclient.keys import KeyRange
from kvclient.output.go_text import quoted
from kvclient.output.stdout import flush
from kvclient.watch import WatchBatch, Watcher

__all__ = ["run_for_events", "watch"]

_EXEC = "kvclient.watch.exec"

_EXIT_INVALID_INPUT: Final = 3
_EXIT_INTERRUPTED: Final = 5


class _WatchCommand(KvctlCommand):
    """Keeps what follows the ``--`` apart: that is a program's command line, not ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            position = args.index("--")
            ctx.meta[_EXEC] = tuple(args[position + 1 :])
            args = args[:position]
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One watch, and what is done with its events."""

    keys: KeyRange
    start_revision: int
    prev_kv: bool
    progress_notify: bool
    program: tuple[str, ...]


@click.command("watch", cls=_WatchCommand)
@click.argument("key", required=False, envvar=["KVCTL_WATCH_KEY", "ETCDCTL_WATCH_KEY"])
@click.argument("range_end", required=False, envvar=["KVCTL_WATCH_RANGE_END", "ETCDCTL_WATCH_RANGE_END"])
@click.option("--prefix", is_flag=True, help="Every key that begins with KEY.")
@click.option(
    "--also",
    "more_keys",
    multiple=True,
    metavar="KEY",
    help="A further key, or prefix with --prefix; repeatable.",
)
@click.option("--rev", type=int, default=0, help="From this revision on, instead of from now.")
@click.option("--prev-kv", is_flag=True, help="Also show the pair as it was before each event.")
@click.option("--progress-notify", is_flag=True, help="Show the server's progress when nothing happens.")
@click.option("-i", "--interactive", is_flag=True, help="Read watch and progress commands from stdin.")
def watch(interactive: bool, more_keys: tuple[str, ...], **params: Any) -> None:
    """Follow KEY, or the keys from KEY up to but not including RANGE_END, until interrupted.

    After a double dash stands a command to run for each event, with the event in the
    environment variables ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and
    ETCD_WATCH_VALUE:

    \b
      kvctl watch jobs/ --prefix -- sh -c 'echo "$ETCD_WATCH_KEY changed"'

    Interactively, each line of standard input is a command: "watch [options] KEY
    [RANGE_END]" starts another watch, "progress" asks the server how far it is.
    """
    program: tuple[str, ...] = click.get_current_context().meta.get(_EXEC, ())
    if interactive:
        if params["key"] is not None:
            raise click.UsageError("with --interactive the keys are read from standard input")
        try:
            session().run(_interactive)
        except BaseExceptionGroup as group:
            # Whatever ended one watch ends them all; the first says why.
            raise group.exceptions[0] from None
        return
    if params["key"] is None and not more_keys:
        raise click.UsageError("watch needs a key")
    wanted = []
    if params["key"] is not None:
        wanted.append(_wanted(params, program))
    for key in more_keys:
        wanted.append(_wanted({**params, "key": key, "range_end": None}, program))
    session().run(lambda client: _follow_all(client, wanted))


def _wanted(params: Mapping[str, Any], program: Sequence[str]) -> _Wanted:
    return _Wanted(
        keys=key_range_of({**params, "from_key": False}),
        start_revision=params["rev"],
        prev_kv=params["prev_kv"],
        progress_notify=params["progress_notify"],
        program=tuple(program),
    )


def _watcher(client: Client, wanted: _Wanted) -> Watcher:
    return client.watch(
        wanted.keys,
        start_revision=wanted.start_revision,
        prev_kv=wanted.prev_kv,
        progress_notify=wanted.progress_notify,
    )


async def _follow_all(client: Client, wanted: Sequence[_Wanted]) -> None:
    tasks = [asyncio.create_task(_follow(_watcher(client, one), one.program)) for one in wanted]
    try:
        # The first that fails ends them all: a watch that silently covers less is none.
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(watcher: Watcher, program: Sequence[str]) -> None:
    printer = session().printer()
    try:
        async with watcher:
            async for batch in watcher:
                printer.watch(batch)
                flush()
                if program:
                    await run_for_events(batch, program)
    except CompactedError as error:
        if error.response is not None:
            printer.watch(WatchBatch(error.response.header.revision, (), error.response))
            flush()
        click.echo(
            f"watch was canceled ({error.text}; the oldest revision to watch from is "
            f"{error.compact_revision})",
            err=True,
        )
        raise CommandFailedError(
            f"watch is canceled by the server (endpoint {error.endpoint})", exit_code=_EXIT_INTERRUPTED
        ) from None
    except WatchCanceledError as error:
        click.echo(f"watch was canceled ({error.text})", err=True)
        raise CommandFailedError(
            f"watch is canceled by the server (endpoint {error.endpoint})", exit_code=_EXIT_INTERRUPTED
        ) from None


async def run_for_events(batch: WatchBatch, program: Sequence[str]) -> None:
    """Run ``program`` once for each event, which it finds in its environment.

    Raises:
        CommandFailedError: It could not be run, or failed.
    """
    for event in batch.events:
        variables = {
            "ETCD_WATCH_REVISION": str(batch.revision),
            "ETCD_WATCH_EVENT_TYPE": quoted(kv_pb2.Event.EventType.Name(event.type)),
            "ETCD_WATCH_KEY": quoted(event.kv.key),
            "ETCD_WATCH_VALUE": quoted(event.kv.value),
        }
        try:
            process = await asyncio.create_subprocess_exec(*program, env={**os.environ, **variables})
        except OSError as error:
            raise CommandFailedError(f"cannot run {program[0]}: {error.strerror}") from None
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            # It may have ended in the very moment of the interruption.
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
        if code != 0:
            raise CommandFailedError(f"{program[0]} exited with {code}")


# -- interactive ---------------------------------------------------------------


async def _interactive(client: Client) -> None:
    """Commands line by line; the end of the input ends the watches."""
    watchers: list[Watcher] = []
    async with asyncio.TaskGroup() as group:
        async for line in _lines_of_stdin():
            try:
                words = split_words(line)
                if not words:
                    continue
                if words[0] == "progress":
                    for watcher in watchers:
                        await watcher.request_progress()
                    continue
                wanted = _parse_line(words)
            except (ValueError, click.UsageError) as error:
                message = error.format_message() if isinstance(error, click.UsageError) else str(error)
                click.echo(f"Invalid command {line.strip()!r}: {message}", err=True)
                continue
            watcher = _watcher(client, wanted)
            watchers.append(watcher)
            group.create_task(_follow(watcher, wanted.program))
        raise CommandFailedError("error reading watch request line: EOF", exit_code=_EXIT_INVALID_INPUT)


async def _lines_of_stdin() -> AsyncIterator[str]:
    """Lines as they are typed.

    A daemon thread reads the bare descriptor: a pool's thread would be waited for at exit,
    and one inside ``sys.stdin`` would hold its lock then, so Ctrl-C would hang until Enter.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        while True:
            try:
                piece = os.read(sys.stdin.fileno(), 65536)
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except (OSError, RuntimeError):  # RuntimeError: the loop has ended.
                return
            if not piece:
                return

    threading.Thread(target=read, name="stdin", daemon=True).start()
    rest = b""
    while piece := await pieces.get():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "surrogateescape")
    if rest:
        yield rest.decode("utf-8", "surrogateescape")


def _parse_line(words: Sequence[str]) -> _Wanted:
    if words[0] != "watch":
        raise ValueError("only watch and progress are understood here")
    ctx = watch.make_context("watch", list(words[1:]))
    if ctx.params["key"] is None:
        raise ValueError("watch needs a key")
    return _wanted(ctx.params, ctx.meta.get(_EXEC, ()))
