"""auth enable, disable, status."""

from kvclient.cli.app import LazyGroup
from kvclient.cli.session import session
from kvclient.client import Client
from kvclient.errors import KvClientError
from kvclient.output.printer import AnswerView
from kvclient.output.stdout import write_line

__all__ = ["auth"]

auth = LazyGroup("auth", help="Turn authentication on and off.")

_NO_ROOT_ROLE = "etcdserver: root user does not have root role"
_ROOT = "root"


@auth.command("enable")
def enable() -> None:
    """Turn authentication on.

    The user root must exist; it is given the role root if it does not have it.
    """

    async def turn_on(client: Client) -> None:
        try:
            await client.auth.enable()
        except KvClientError as error:
            if error.text != _NO_ROOT_ROLE:
                raise
            await client.auth.add_role(_ROOT)
            await client.auth.grant_role(_ROOT, _ROOT)
            await client.auth.enable()

    session().run(turn_on)
    write_line("Authentication Enabled")


@auth.command("disable")
def disable() -> None:
    """Turn authentication off; users and roles stay."""
    session().run(lambda client: client.auth.disable())
    write_line("Authentication Disabled")


@auth.command("status")
def status() -> None:
    """Whether authentication is on."""
    response = session().run(lambda client: client.auth.status())
    enabled = "true" if response.enabled else "false"
    revision = str(response.authRevision)
    view = AnswerView(
        text=f"Authentication Status: {enabled}\nAuthRevision: {revision}",
        fields=[("Enabled", f" {enabled}"), ("AuthRevision", f" {revision}")],
    )
    session().printer().answer(response, view)
