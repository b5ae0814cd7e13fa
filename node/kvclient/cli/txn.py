"""txn: compares and two lists of requests, read from standard input in etcdctl's grammar."""

import sys
from collections.abc import Iterator
from typing import IO, Final

import click

from kvclient.cli.app import KvctlCommand
from kvclient.cli.session import CommandFailedError, session
from kvclient.cli.txn_grammar import TransactionText, parse_compare, parse_operation
from kvclient.output.printer import TxnViews

__all__ = ["txn"]

_EXIT_INVALID_INPUT: Final = 3


@click.command("txn", cls=KvctlCommand)
@click.option("-i", "--interactive", is_flag=True, help="Print what is expected next.")
def txn(interactive: bool) -> None:
    """Read a transaction from standard input and do it as a whole.

    Three blocks of lines, each ended by an empty line: comparisons, requests for when all
    of them hold, requests for when one doesn't.  For example:

    \b
      mod("key1") > "0"
    \b
      put key1 "overwritten"
    \b
      put key1 "created"
      get --prefix ""
    """
    from kvnode.pb import rpc_pb2

    try:
        text = _read(sys.stdin, is_prompting=interactive)
    except ValueError as error:
        raise CommandFailedError(str(error), exit_code=_EXIT_INVALID_INPUT) from None
    request = rpc_pb2.TxnRequest(
        compare=text.compares,
        success=[operation.request for operation in text.success],
        failure=[operation.request for operation in text.failure],
    )
    response = session().run(lambda client: client.txn(request.compare, request.success, request.failure))
    views = TxnViews(
        success=[operation.view for operation in text.success],
        failure=[operation.view for operation in text.failure],
    )
    session().printer().txn(response, views)


def _read(source: IO[str], *, is_prompting: bool) -> TransactionText:
    def prompt(text: str) -> None:
        if is_prompting:
            click.echo(text)

    prompt("compares:")
    compares = [parse_compare(line) for line in _block(source)]
    prompt("success requests (get, put, del):")
    success = [parse_operation(line) for line in _block(source)]
    prompt("failure requests (get, put, del):")
    failure = [parse_operation(line) for line in _block(source)]
    return TransactionText(compares=compares, success=success, failure=failure)


def _block(source: IO[str]) -> Iterator[str]:
    """Lines up to an empty one.

    Raises:
        ValueError: The input ends before it: half a transaction is none.
    """
    for line in iter(source.readline, ""):
        if not line.strip():
            return
        yield line.strip()
    raise ValueError("the input ended before the empty line that ends a block")
