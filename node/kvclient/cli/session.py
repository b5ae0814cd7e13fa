"""What the global options say, and the client and printer made from them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from kvclient.client import Client
    from kvclient.output.printer import Printer

__all__ = ["DEFAULT_ENDPOINT", "CommandFailedError", "Session", "session"]

T = TypeVar("T")

DEFAULT_ENDPOINT = "127.0.0.1:2379"


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
    dial_timeout_s: float = 2.0
    command_timeout_s: float = 5.0
    write_out: str | None = None

    @property
    def endpoint_list(self) -> list[str]:
        """Every endpoint given, comma-separated or repeated."""
        texts = self.endpoints or (DEFAULT_ENDPOINT,)
        return [part.strip() for text in texts for part in text.split(",") if part.strip()]

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
        from kvclient.tls import TlsConfig

        try:
            tls = None
            if self.ca_file or self.cert_file or self.key_file:
                tls = TlsConfig(ca_file=self.ca_file, cert_file=self.cert_file, key_file=self.key_file)
            return Client(
                endpoints,
                tls=tls,
                timeout_s=self.command_timeout_s,
                dial_timeout_s=self.dial_timeout_s,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    def run(self, work: "Callable[[Client], Awaitable[T]]") -> T:
        """Run ``work`` with a client that is closed afterwards."""

        async def with_client() -> T:
            async with self.client() as client:
                return await work(client)

        return asyncio.run(with_client())

    def printer(self, *, for_people: str = "simple") -> "Printer":
        """The printer asked for; else ``for_people`` on a terminal and plain lines in a pipe."""
        from kvclient.output.printer import printer_for
        from kvclient.output.stdout import is_terminal

        return printer_for(self.write_out or (for_people if is_terminal() else "simple"))


def session() -> Session:
    """The session of the command that runs."""
    found = click.get_current_context().find_object(Session)
    if found is None:
        raise RuntimeError("no command runs")
    return found
