"""The command tree, the global options, and what each kind of failure exits with."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

import click

from kvclient.cli.session import DEFAULT_ENDPOINT, CommandFailedError, Session, described
from kvclient.cli.values import DURATION, HEX_ID, REVISION
from kvclient.output.printer import FORMATS

__all__ = ["KvctlCommand", "LazyGroup", "global_options", "kvctl", "main", "without_truth_values"]

# etcdctl's numbers, so that scripts keep working.
EXIT_ERROR: Final = 1
EXIT_BAD_FEATURE: Final = 4
EXIT_IO: Final = 6
EXIT_BAD_ARGUMENTS: Final = 128
_COMPLETION_VARIABLE: Final = "_KVCTL_COMPLETE"
# The shell's number for a process ended by Ctrl-C.
EXIT_INTERRUPTED: Final = 130


def global_options(*, has_environment: bool) -> list[click.Option]:
    """The options that may stand before or after the command's name.

    Only the ones before it read the environment: an unset option after the command must
    not override what was given before it.
    """

    def option(*names: str, variable: str, **settings: Any) -> click.Option:
        environment = [f"KVCTL_{variable}", f"ETCDCTL_{variable}"] if has_environment else None
        return click.Option(
            list(names), envvar=environment, expose_value=False, callback=_remember, **settings
        )

    def text(*names: str, variable: str, metavar: str, help: str) -> click.Option:  # noqa: A002
        return option(*names, variable=variable, metavar=metavar, help=help)

    def flag(*names: str, variable: str, help: str) -> click.Option:  # noqa: A002
        # Not False: an option that isn't there must not undo one that is.
        return option(*names, variable=variable, is_flag=True, default=None, help=help)

    def duration(*names: str, variable: str, help: str) -> click.Option:  # noqa: A002
        return option(*names, variable=variable, type=DURATION, help=help)

    return [
        option(
            "--endpoints",
            variable="ENDPOINTS",
            multiple=True,
            metavar="URL[,URL...]",
            help=f"Members to talk to.  [default: {DEFAULT_ENDPOINT}]",
        ),
        text(
            "--user",
            variable="USER",
            metavar="NAME[:PASSWORD]",
            help="Who we are; the password is asked for if it is not given.",
        ),
        text("--password", variable="PASSWORD", metavar="PASSWORD", help="Password of --user."),
        text(
            "--cacert",
            "ca_file",
            variable="CACERT",
            metavar="FILE",
            help="Trust servers whose issuer is in here.",
        ),
        text(
            "--cert",
            "cert_file",
            variable="CERT",
            metavar="FILE",
            help="Certificate to identify ourselves with.",
        ),
        text("--key", "key_file", variable="KEY", metavar="FILE", help="Private key of that certificate."),
        flag(
            "--insecure-transport/--no-insecure-transport",
            variable="INSECURE_TRANSPORT",
            help="No TLS for endpoints without scheme.  [default: yes, unless TLS files are given]",
        ),
        flag(
            "--insecure-skip-tls-verify",
            "skips_verification",
            variable="INSECURE_SKIP_TLS_VERIFY",
            help="Believe whatever certificate a server shows: for tests only.",
        ),
        duration(
            "--dial-timeout",
            "dial_timeout_s",
            variable="DIAL_TIMEOUT",
            help="For connecting to one endpoint.  [default: 2s]",
        ),
        duration(
            "--command-timeout",
            "command_timeout_s",
            variable="COMMAND_TIMEOUT",
            help="For the answer to a short command.  [default: 5s]",
        ),
        duration(
            "--keepalive-time",
            "keepalive_s",
            variable="KEEPALIVE_TIME",
            help="Ping a connection in use this often.  [default: 10s]",
        ),
        duration(
            "--keepalive-timeout",
            "keepalive_timeout_s",
            variable="KEEPALIVE_TIMEOUT",
            help="And give it up when nothing comes back.  [default: 5s]",
        ),
        option(
            "--max-request-bytes",
            variable="MAX_REQUEST_BYTES",
            type=click.INT,
            help="Largest request to send; 0 for 2 MiB.",
        ),
        option(
            "--max-recv-bytes",
            variable="MAX_RECV_BYTES",
            type=click.INT,
            help="Largest answer to take; 0 for 2 GiB.",
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
        flag("--hex", "is_hex", variable="HEX", help="Keys, values and ids in hexadecimal."),
        flag("--debug", "is_debug", variable="DEBUG", help="Say on standard error what the client does."),
        text(
            "-d",
            "--discovery-srv",
            variable="DISCOVERY_SRV",
            metavar="DOMAIN",
            help="Not supported: endpoints are not looked up in DNS.",
        ),
        text("--discovery-srv-name", variable="DISCOVERY_SRV_NAME", metavar="NAME", help="Not supported."),
        flag(
            "--insecure-discovery/--no-insecure-discovery",
            variable="INSECURE_DISCOVERY",
            help="Without effect, as nothing is looked up.",
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
        super().__init__(name, params=[*self._own_params, *global_options(has_environment=False)], **settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, without_truth_values(self.params, args))

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


def without_truth_values(params: Sequence[click.Parameter], args: list[str]) -> list[str]:
    """Turn ``--flag=true`` into ``--flag`` and ``--flag=false`` into its opposite, up to a ``--``."""
    flags = {
        name: param
        for param in params
        if isinstance(param, click.Option) and param.is_flag
        for name in param.opts
    }
    result: list[str] = []
    for position, argument in enumerate(args):
        if argument == "--":
            return result + args[position:]
        name, separator, value = argument.partition("=")
        if name in flags and separator and value.lower() in ("true", "false", "t", "f", "1", "0"):
            if value.lower() in ("true", "t", "1"):
                result.append(name)
            else:
                # A flag without opposite is off when it isn't there.
                result += flags[name].secondary_opts[:1]
        else:
            result.append(argument)
    return result


class UnknownCommandError(click.UsageError):
    """No command begins so, or several do."""


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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, without_truth_values(self.params, args))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command by its name or by any beginning that only one command has."""
        names = self.list_commands(ctx)
        wanted = args[0]
        found = [wanted] if wanted in names else [name for name in names if name.startswith(wanted)]
        if len(found) != 1:
            raise UnknownCommandError(f'unknown command "{wanted}" for "{ctx.command_path}"', ctx)
        return found[0], self.get_command(ctx, found[0]), args[1:]

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
    "auth": ("auth:auth", "Turn authentication on and off."),
    "check": ("check:check", "Try the cluster under a load of writes."),
    "compaction": ("kv:compaction", "Forget what was overwritten before a revision."),
    "completion": ("completion:completion", "Print a script for the shell's completion."),
    "defrag": ("maintenance:defrag", "Give freed space back to the file system."),
    "del": ("kv:delete", "Delete a key or a range of keys."),
    "downgrade": ("downgrade:downgrade", "Go back to an older version of the servers."),
    "elect": ("lock:elect", "Stand in a leader election, or watch one."),
    "endpoint": ("endpoint:endpoint", "Ask single members: status, health, hashes."),
    "get": ("kv:get", "Read a key or a range of keys."),
    "hashkv": ("dump:hashkv", "Hash of a snapshot file or a data directory."),
    "lease": ("lease:lease", "Grant, renew, inspect and revoke leases."),
    "lock": ("lock:lock", "Hold a lock, for as long as a command runs."),
    "log": ("dump:log", "Look at a member's raft log."),
    "make-mirror": ("mirror:make_mirror", "Keep a copy of the keys in another cluster."),
    "member": ("member:member", "List and change the members."),
    "move-leader": ("maintenance:move_leader", "Hand leadership to another member."),
    "options": ("maintenance:options", "Print the global options."),
    "put": ("kv:put", "Write a key."),
    "role": ("role:role", "Roles, and what they may read and write."),
    "snapshot": ("snapshot:snapshot", "Save, inspect and restore snapshots."),
    "state": ("dump:state", "Look at a member's state."),
    "txn": ("txn:txn", "Compare, then do one of two lists of requests, all at once."),
    "user": ("user:user", "Users, their passwords and roles."),
    "version": ("maintenance:version", "Print versions."),
    "watch": ("watch:watch", "Follow changes of keys."),
}


def kvctl() -> click.Group:
    """The whole command tree."""
    return LazyGroup(
        "kvctl",
        lazy=dict(_COMMANDS),
        params=[*global_options(has_environment=True)],
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

    if _COMPLETION_VARIABLE in os.environ:
        # A shell asks what could come next.
        from click.shell_completion import shell_complete

        return shell_complete(kvctl(), {}, "kvctl", _COMPLETION_VARIABLE, os.environ[_COMPLETION_VARIABLE])
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
    from kvclient.errors import KvClientError
    from kvclient.output.printer import UnsupportedFormatError

    match error:
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message())
            return 0
        case click.UsageError():
            hint = f"\nTry '{error.ctx.command_path} --help'." if error.ctx else ""
            click.echo(f"Error: {error.format_message()}{hint}", err=True)
            return _usage_exit_code(error)
        case click.ClickException():
            click.echo(f"Error: {error.format_message()}", err=True)
            return EXIT_ERROR
        case CommandFailedError():
            if str(error):
                click.echo(f"Error: {error}", err=True)
            return error.exit_code
        case UnsupportedFormatError():
            click.echo(f"Error: {error}", err=True)
            return EXIT_BAD_FEATURE
        case KvClientError():
            click.echo(f"Error: {described(error)}", err=True)
            return EXIT_ERROR
        case OSError():
            name = f"{error.filename}: " if error.filename else ""
            click.echo(f"Error: {name}{error.strerror or error}", err=True)
            return EXIT_IO
    raise error


def _usage_exit_code(error: click.UsageError) -> int:
    """What etcdctl exits with: its parser of options and its commands don't agree on a number."""
    match error:
        case UnknownCommandError() | click.NoSuchOption() | click.BadOptionUsage():
            return EXIT_ERROR
        case click.MissingParameter():
            return EXIT_BAD_ARGUMENTS
        case click.BadParameter(param=param) if param is not None:
            if isinstance(param.type, click.Choice):
                return EXIT_BAD_FEATURE if isinstance(param, click.Option) else EXIT_ERROR
            if isinstance(param, click.Option):
                return EXIT_BAD_ARGUMENTS if param.type is HEX_ID else EXIT_ERROR
            return EXIT_ERROR if param.type is REVISION else EXIT_BAD_ARGUMENTS
    return EXIT_BAD_ARGUMENTS
