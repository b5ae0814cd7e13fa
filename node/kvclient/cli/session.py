"""What the global options say, and the client and printer made from them."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from kvclient.client import Client
    from kvclient.connection import ConnectionOptions
    from kvclient.errors import KvClientError
    from kvclient.output.printer import Printer
    from kvclient.tls import TlsConfig
    from kvclient.tokens import Credentials

__all__ = ["DEFAULT_ENDPOINT", "CommandFailedError", "Session", "asked_password", "described", "session"]

T = TypeVar("T")

DEFAULT_ENDPOINT = "127.0.0.1:2379"
_DEFAULT_TIMEOUT_S = 5.0


class CommandFailedError(Exception):
    """The command did what it could and failed; ``text`` is the whole error line."""

    def __init__(self, text: str, *, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(slots=True, kw_only=True)
class Session:
    """The global options; those given after the command's name override those before it."""

    endpoints: tuple[str, ...] = ()
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    user: str | None = None
    password: str | None = None
    insecure_transport: bool | None = None
    skips_verification: bool = False
    dial_timeout_s: float = 2.0
    command_timeout_s: float | None = None
    keepalive_s: float = 10.0
    keepalive_timeout_s: float = 5.0
    max_request_bytes: int = 0
    max_recv_bytes: int = 0
    write_out: str | None = None
    is_hex: bool = False
    is_debug: bool = False
    discovery_srv: str | None = None
    discovery_srv_name: str | None = None
    insecure_discovery: bool | None = None

    @property
    def endpoint_list(self) -> list[str]:
        """Every endpoint given, comma-separated or repeated."""
        texts = self.endpoints or (DEFAULT_ENDPOINT,)
        return [part.strip() for text in texts for part in text.split(",") if part.strip()]

    @property
    def is_plain(self) -> bool:
        """Whether the output is the simple format, in which lines for people may stand between."""
        return (self.write_out or "simple") == "simple"

    def client(self) -> "Client":
        """A client of the endpoints given.

        Raises:
            click.UsageError: An endpoint or a TLS option is wrong.
        """
        return self.client_of(*self.endpoint_list)

    def client_of(self, *endpoints: str) -> "Client":
        """A client of these endpoints, by the other options.

        Raises:
            click.UsageError: An endpoint or a TLS option is wrong.
        """
        from kvclient.client import Client

        if self.discovery_srv:
            raise click.UsageError("--discovery-srv is not supported: name the members by --endpoints")
        try:
            return Client(
                endpoints,
                tls=self.tls(
                    self.ca_file, self.cert_file, self.key_file, is_wanted=self.insecure_transport is False
                ),
                credentials=self.credentials(),
                timeout_s=_DEFAULT_TIMEOUT_S if self.command_timeout_s is None else self.command_timeout_s,
                connecting=self.connecting(),
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    def tls(
        self,
        ca_file: str | None,
        cert_file: str | None,
        key_file: str | None,
        *,
        is_wanted: bool = False,
    ) -> "TlsConfig | None":
        """TLS by these files and the other options; None for none.  ``is_wanted``: even without files.

        Raises:
            ValueError: A certificate without its key, or the other way round.
        """
        from kvclient.tls import TlsConfig

        if not (ca_file or cert_file or key_file or self.skips_verification or is_wanted):
            return None
        return TlsConfig(
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            skips_verification=self.skips_verification,
        )

    def connecting(self) -> "ConnectionOptions":
        """How connections are made."""
        from kvclient.connection import ConnectionOptions

        return ConnectionOptions(
            dial_timeout_s=self.dial_timeout_s,
            keepalive_s=self.keepalive_s,
            keepalive_timeout_s=self.keepalive_timeout_s,
            max_send_bytes=self.max_request_bytes,
            max_receive_bytes=self.max_recv_bytes,
        )

    def credentials(self) -> "Credentials | None":
        """User and password; the password is asked for, once, if it was not given."""
        from kvclient.tokens import Credentials

        if not self.user:
            return None
        if self.password:
            return Credentials(self.user, self.password)
        name, separator, password = self.user.partition(":")
        if not separator:
            self.password = asked_password("Password: ")
            return Credentials(self.user, self.password)
        return Credentials(name, password)

    def run(self, work: "Callable[[Client], Awaitable[T]]") -> T:
        """Run ``work`` with a client that is closed afterwards."""

        if self.is_debug:
            self._log_everything()

        async def with_client() -> T:
            async with self.client() as client:
                return await work(client)

        return asyncio.run(with_client())

    def _log_everything(self) -> None:
        import logging

        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
        # What etcdctl's --debug prints: the options in effect, never the password.
        for name in self.__slots__:
            if name != "password":
                click.echo(f"{name}={getattr(self, name)}", err=True)

    def printer(self, *, for_people: str = "simple") -> "Printer":
        """The printer asked for; else ``for_people`` on a terminal and plain lines in a pipe."""
        from kvclient.output.printer import printer_for
        from kvclient.output.stdout import is_terminal

        format_name = self.write_out or (for_people if is_terminal() and not self.is_hex else "simple")
        return printer_for(format_name, is_hex=self.is_hex)


def asked_password(prompt: str, *, exit_code: int = 1) -> str:
    """What the user types at the terminal, unseen.

    Raises:
        CommandFailedError: There is no terminal, or the user ended the input.
    """
    import getpass

    if not sys.stdin.isatty():
        raise CommandFailedError(
            "failed to ask password: standard input is not a terminal", exit_code=exit_code
        )
    try:
        return getpass.getpass(prompt)
    except EOFError:
        raise CommandFailedError("failed to ask password: end of input", exit_code=exit_code) from None


def described(error: "KvClientError") -> str:
    """The error line of a call that failed."""
    unclear = "; the request may have been applied all the same" if error.is_maybe_applied else ""
    return f"{error}{unclear}"


def session() -> Session:
    """The session of the command that runs."""
    found = click.get_current_context().find_object(Session)
    if found is None:
        raise RuntimeError("no command runs")
    return found
