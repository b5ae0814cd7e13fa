"""completion: the scripts that let a shell complete kvctl's commands and options."""

from typing import Final

import click
from click.shell_completion import get_completion_class

from kvclient.cli.app import KvctlCommand, kvctl
from kvclient.cli.session import CommandFailedError

__all__ = ["completion"]

_SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_KVCTL_COMPLETE"


@click.command("completion", cls=KvctlCommand)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print a script that lets SHELL complete commands and options.

    \b
      bash: source <(kvctl completion bash)
      zsh:  source <(kvctl completion zsh)
      fish: kvctl completion fish | source
    """
    found = get_completion_class(shell)
    if found is None:
        raise CommandFailedError(f"no completion for {shell}")
    # `source` alone would ask the installed shell for its version, which is beside the point here.
    maker = found(kvctl(), {}, "kvctl", _VARIABLE)
    click.echo(maker.source_template % maker.source_vars())
