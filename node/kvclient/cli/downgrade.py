"""downgrade validate, enable, cancel."""

import click

from kvclient.cli.app import LazyGroup
from kvclient.cli.session import session
from kvclient.maintenance import DowngradeAction
from kvclient.output.printer import AnswerView

__all__ = ["downgrade"]

downgrade = LazyGroup("downgrade", help="Go back to an older version of the servers.")


@downgrade.command("validate")
@click.argument("version")
def validate(version: str) -> None:
    """Whether the cluster could go back to VERSION, such as 3.6."""
    _do("validate", version)


@downgrade.command("enable")
@click.argument("version")
def enable(version: str) -> None:
    """Let members of VERSION join, one after the other."""
    _do("enable", version)


@downgrade.command("cancel")
def cancel() -> None:
    """Call it off."""
    _do("cancel", "")


def _do(action: DowngradeAction, version: str) -> None:
    if action != "cancel" and not version:
        raise click.UsageError("target version not provided")
    response = session().run(lambda client: client.maintenance.downgrade(action, version))
    text = f"Downgrade {action} success, cluster version {response.version}"
    fields = [("ClusterVersion", f' "{response.version}"')]
    session().printer().answer(response, AnswerView(text=text, fields=fields))
