"""The command tree, the global options, and what each kind of failure exits with."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

import click

from kvclient.cli.session import DEFAULT_ENDPOINT, CommandFailedError, Session
from kvclient.cli.values import DURATION
from kvclient.output.printer import FORMATS

__all__ = ["KvctlCommand", "LazyGroup", "main"]

# etcdctl's numbers, so that scripts keep working.
EXIT_ERROR: Final = 1
EXIT_BAD_CONNECTION: Final = 2
EXIT_IO: Final = 6
EXIT_BAD_ARGUMENTS: Final = 128
# The shell's number for a process ended by Ctrl-C.
EXIT_INTERRUPTED: Final = 130


def _global_options(*, has_environment: bool) -> list[click.Option]:
    """The options that may stand before or after the command's name.

    Only the ones before it read the environment: an unset option after the command must
    not override what was given before it.
    """

    def option(*names: str, variable: str, **settings: Any) -> click.Option:
        environment = [f"KVCTL_{variable}", f"ETCDCTL_{variable}"] if has_environment else None
        return click.Option(
            list(names), envvar=environment, expose_value=False, callback=_remember, **settings
        )

    return [
        option(
            "--endpoints",
            variable="ENDPOINTS",
            multiple=True,
            metavar="URL[,URL...]",
            help=f"Members to talk to.  [default: {DEFAULT_ENDPOINT}]",
        ),
        option(
            "--cacert",
            "ca_file",
            variable="CACERT",
            metavar="FILE",
            help="Trust servers whose issuer is in here.",
        ),
        option(
            "--cert",
            "cert_file",
            variable="CERT",
            metavar="FILE",
            help="Certificate to identify ourselves with.",
        ),
        option("--key", "key_file", variable="KEY", metavar="FILE", help="Private key of that certificate."),
        option(
            "--dial-timeout",
            "dial_timeout_s",
            variable="DIAL_TIMEOUT",
            type=DURATION,
            help="For connecting to one endpoint.  [default: 2s]",
        ),
        option(
            "--command-timeout",
            "command_timeout_s",
            variable="COMMAND_TIMEOUT",
            type=DURATION,
            help="For the answer to a short command.  [default: 5s]",
        ),
        option(
            "-w",
            "--write-out",
            "-o",
            "--output",
            "write_out",
            variable="WRITE_OUT",
            type=click.Choice(FORMATS),
            help="Format of the output.  [default: simple; tables on a terminal where they help]",
        ),
    ]


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    found = ctx.ensure_object(Session)
    if value not in (None, ()):
        setattr(found, param.name or "", value)


class KvctlCommand(click.Command):
    """A command that also takes the global options, and booleans as ``--flag=true``."""

    def __init__(
        self, name: str | None, params: list[click.Parameter] | None = None, **settings: Any
    ) -> None:
        self._own_params = list(params or [])
        super().__init__(
            name, params=[*self._own_params, *_global_options(has_environment=False)], **settings
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _without_truth_values(self._own_params, args))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = [
            record
            for param in self._own_params
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
        ]
        help_option = self.get_help_option(ctx)
        if help_option is not None and (record := help_option.get_help_record(ctx)):
            records.append(record)
        with formatter.section("Options"):
            formatter.write_dl(records)
        formatter.write_paragraph()
        formatter.write_text("The global options (kvctl --help) may stand here as well.")


def _without_truth_values(params: Sequence[click.Parameter], args: list[str]) -> list[str]:
    """Turn ``--flag=true`` into ``--flag`` and drop ``--flag=false``, up to a ``--``."""
    flags = {
        name for param in params if isinstance(param, click.Option) and param.is_flag for name in param.opts
    }
    result: list[str] = []
    for position, argument in enumerate(args):
        if argument == "--":
            return result + args[position:]
        name, separator, value = argument.partition("=")
        if name in flags and separator and value.lower() in ("true", "false", "1", "0"):
            if value.lower() in ("true", "1"):
                result.append(name)
        else:
            result.append(argument)
    return result


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or described."""

    command_class = KvctlCommand

    def __init__(
        self,
        name: str,
        lazy: dict[str, tuple[str, str]] | None = None,
        **settings: Any,
    ) -> None:
        """``lazy``: a command's name -> its ``module:attribute`` and one line of help."""
        super().__init__(name, **settings)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self._lazy, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(import_module(f"kvclient.cli.{module}"), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in self._lazy:
                rows.append((name, self._lazy[name][1]))
            elif (command := self.get_command(ctx, name)) is not None:
                rows.append((name, command.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


_COMMANDS: Final = {
    "alarm": ("maintenance:alarm", "List or lower alarms."),
    "compaction": ("kv:compaction", "Forget what was overwritten before a revision."),
    "defrag": ("maintenance:defrag", "Give freed space back to the file system."),
    "del": ("kv:delete", "Delete a key or a range of keys."),
    "endpoint": ("endpoint:endpoint", "Ask single members: status, health, hashes."),
    "get": ("kv:get", "Read a key or a range of keys."),
    "lease": ("lease:lease", "Grant, renew, inspect and revoke leases."),
    "member": ("member:member", "List and change the members."),
    "move-leader": ("maintenance:move_leader", "Hand leadership to another member."),
    "put": ("kv:put", "Write a key."),
    "snapshot": ("snapshot:snapshot", "Save, inspect and restore snapshots."),
    "txn": ("txn:txn", "Compare, then do one of two lists of requests, all at once."),
    "version": ("maintenance:version", "Print versions."),
    "watch": ("watch:watch", "Follow changes of keys."),
}


def kvctl() -> click.Group:
    """The whole command tree."""
    return LazyGroup(
        "kvctl",
        lazy=dict(_COMMANDS),
        params=[*_global_options(has_environment=True)],
        help="Talk to a kvcluster or etcd cluster.\n\n"
        "Every global option can be set in the environment as KVCTL_<NAME> or ETCDCTL_<NAME>.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run kvctl and exit."""
    sys.exit(run(sys.argv[1:] if args is None else args))


def run(args: Sequence[str]) -> int:
    """Run kvctl; every failure becomes one line on standard error and an exit code."""
    from kvclient.output.stdout import flush

    try:
        result = kvctl().main(args=list(args), prog_name="kvctl", standalone_mode=False)
        flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        # The reader, `head` for example, has seen enough; a second error at exit must not follow.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        _quietly(flush)
        return EXIT_INTERRUPTED
    except Exception as error:
        _quietly(flush)
        return _report(error)


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError:
        pass  # What went wrong before is the better thing to report.


def _report(error: Exception) -> int:
    from kvclient.errors import ConnectionFailedError, KvClientError

    match error:
        case click.UsageError():
            hint = f"\nTry '{error.ctx.command_path} --help'." if error.ctx else ""
            click.echo(f"Error: {error.format_message()}{hint}", err=True)
            return EXIT_BAD_ARGUMENTS
        case click.ClickException():
            click.echo(f"Error: {error.format_message()}", err=True)
            return EXIT_ERROR
        case CommandFailedError():
            click.echo(f"Error: {error}", err=True)
            return error.exit_code
        case ConnectionFailedError():
            click.echo(f"Error: {error}", err=True)
            return EXIT_BAD_CONNECTION
        case KvClientError():
            unclear = "; the request may have been applied all the same" if error.is_maybe_applied else ""
            click.echo(f"Error: {error}{unclear}", err=True)
            return EXIT_ERROR
        case OSError():
            name = f"{error.filename}: " if error.filename else ""
            click.echo(f"Error: {name}{error.strerror or error}", err=True)
            return EXIT_IO
    raise error
