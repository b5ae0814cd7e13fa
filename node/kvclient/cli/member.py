"""member list, add, remove, update, promote."""

import click

from kvclient.cli.app import LazyGroup
from kvclient.cli.session import session
from kvclient.cli.values import HEX_ID

__all__ = ["member"]

member = LazyGroup("member", help="List and change the members.")


@member.command("list")
@click.option(
    "--consistency",
    type=click.Choice(["l", "s"]),
    default="l",
    help="l: as the quorum knows them; s: as the member asked does.",
)
def list_members(consistency: str) -> None:
    """All members."""
    response = session().run(lambda client: client.cluster.list_members(is_linearizable=consistency == "l"))
    session().printer(for_people="table").members(response)


@member.command("add")
@click.argument("name")
@click.option("--peer-urls", required=True, metavar="URL[,URL...]", help="Where its peers will reach it.")
@click.option("--learner", is_flag=True, help="It receives everything and has no vote.")
def add(name: str, peer_urls: str, learner: bool) -> None:
    """Add a member and print the settings to start it with."""
    urls = _urls(peer_urls)
    response = session().run(lambda client: client.cluster.add_member(urls, is_learner=learner))
    session().printer().member_added(name, response)


@member.command("remove")
@click.argument("member_id", type=HEX_ID)
def remove(member_id: int) -> None:
    """Remove a member for good."""
    response = session().run(lambda client: client.cluster.remove_member(member_id))
    session().printer().member_removed(member_id, response)


@member.command("update")
@click.argument("member_id", type=HEX_ID)
@click.option("--peer-urls", required=True, metavar="URL[,URL...]", help="Where its peers reach it now.")
def update(member_id: int, peer_urls: str) -> None:
    """Give a member other peer URLs."""
    urls = _urls(peer_urls)
    response = session().run(lambda client: client.cluster.update_member(member_id, urls))
    session().printer().member_updated(member_id, response)


@member.command("promote")
@click.argument("member_id", type=HEX_ID)
def promote(member_id: int) -> None:
    """Make a learner a voter."""
    response = session().run(lambda client: client.cluster.promote_member(member_id))
    session().printer().member_promoted(member_id, response)


def _urls(text: str) -> list[str]:
    urls = [url.strip() for url in text.split(",") if url.strip()]
    if not urls:
        raise click.UsageError("--peer-urls names no URL")
    return urls
