"""user add, delete, get, list, passwd, grant-role, revoke-role."""

import sys
from typing import Final

import click

from kvclient.cli.app import LazyGroup
from kvclient.cli.role import role_view
from kvclient.cli.session import CommandFailedError, asked_password, session
from kvclient.client import Client
from kvclient.output.go_text import quoted
from kvclient.output.printer import AnswerView
from kvclient.output.stdout import write_line

__all__ = ["user"]

_EXIT_BAD_ARGUMENTS: Final = 128

user = LazyGroup("user", help="Users, their passwords and roles.")

_interactive_option = click.option(
    "--interactive/--no-interactive",
    default=True,
    help="Ask for the password at the terminal; =false reads it from standard input.",
)


@user.command("add")
@click.argument("name")
@_interactive_option
@click.option("--new-user-password", default="", metavar="PASSWORD", help="The password.")
@click.option("--no-password", is_flag=True, help="Known by certificates only.")
def add(name: str, interactive: bool, new_user_password: str, no_password: bool) -> None:
    """A new user NAME, or NAME:PASSWORD."""
    password: str | None = None
    if new_user_password and not no_password:
        password = new_user_password
    elif not no_password:
        first, separator, rest = name.partition(":")
        if separator:
            if not first:
                raise click.UsageError("empty user name is not allowed")
            name, password = first, rest
        else:
            password = _new_password(name, is_interactive=interactive)
    response = session().run(lambda client: client.auth.add_user(name, password))
    session().printer().answer(response, AnswerView(text=f"User {name} created"))


@user.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Delete a user."""
    response = session().run(lambda client: client.auth.delete_user(name))
    session().printer().answer(response, AnswerView(text=f"User {name} deleted"))


@user.command("get")
@click.argument("name")
@click.option("--detail", is_flag=True, help="Also what each role may do.")
def get(name: str, detail: bool) -> None:
    """A user's roles."""

    async def show(client: Client) -> None:
        response = await client.auth.user(name)
        printer = session().printer()
        if not detail:
            roles = "".join(f" {role}" for role in response.roles)
            fields = [("Roles", "".join(f" {quoted(role)}" for role in response.roles))]
            printer.answer(response, AnswerView(text=f"User: {name}\nRoles:{roles}", fields=fields))
            return
        write_line(f"User: {name}")
        for role_name in response.roles:
            write_line("")
            role = await client.auth.role(role_name)
            printer.answer(role, role_view(role_name, role))

    session().run(show)


@user.command("list")
def list_users() -> None:
    """The names of all users."""
    response = session().run(lambda client: client.auth.users())
    view = AnswerView(
        text="\n".join(response.users),
        fields=[("Users", "".join(f" {quoted(name)}" for name in response.users))],
    )
    session().printer().answer(response, view)


@user.command("passwd")
@click.argument("name")
@_interactive_option
def passwd(name: str, interactive: bool) -> None:
    """Give a user another password."""
    password = _new_password(name, is_interactive=interactive)
    response = session().run(lambda client: client.auth.change_password(name, password))
    session().printer().answer(response, AnswerView(text="Password updated"))


@user.command("grant-role")
@click.argument("name")
@click.argument("role")
def grant_role(name: str, role: str) -> None:
    """Let a user have a role."""
    response = session().run(lambda client: client.auth.grant_role(name, role))
    session().printer().answer(response, AnswerView(text=f"Role {role} is granted to user {name}"))


@user.command("revoke-role")
@click.argument("name")
@click.argument("role")
def revoke_role(name: str, role: str) -> None:
    """Take a role from a user."""
    response = session().run(lambda client: client.auth.revoke_role(name, role))
    session().printer().answer(response, AnswerView(text=f"Role {role} is revoked from user {name}"))


def _new_password(name: str, *, is_interactive: bool) -> str:
    """A password from standard input, its first word; or asked for twice."""
    if not is_interactive:
        words = sys.stdin.readline().split()
        return words[0] if words else ""
    password = asked_password(f"Password of {name}: ", exit_code=_EXIT_BAD_ARGUMENTS)
    if not password:
        raise CommandFailedError("empty password", exit_code=_EXIT_BAD_ARGUMENTS)
    again = asked_password(f"Type password of {name} again for confirmation: ", exit_code=_EXIT_BAD_ARGUMENTS)
    if password != again:
        raise CommandFailedError("given passwords are different", exit_code=_EXIT_BAD_ARGUMENTS)
    return password
