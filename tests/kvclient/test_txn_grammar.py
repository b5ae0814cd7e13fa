"""etcdctl's transaction grammar, line by line."""

import pytest
from kvclient.cli.txn_grammar import Operation, parse_compare, parse_operation
from kvclient.keys import prefix
from kvclient.output.printer import RangeView
from kvclient.txn import (
    compare_create,
    compare_lease,
    compare_mod,
    compare_value,
    compare_version,
    op_delete,
    op_put,
)
from kvnode.pb import rpc_pb2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param('mod("k") > "0"', compare_mod("k", ">", 0), id="mod"),
        pytest.param('m("k") > "0"', compare_mod("k", ">", 0), id="mod-short"),
        pytest.param('create("k") = "7"', compare_create("k", "=", 7), id="create"),
        pytest.param('c("k") = "7"', compare_create("k", "=", 7), id="create-short"),
        pytest.param('version("k") != "2"', compare_version("k", "!=", 2), id="version"),
        pytest.param('ver("k") < "2"', compare_version("k", "<", 2), id="version-short"),
        pytest.param('value("k") = "x y"', compare_value("k", "=", "x y"), id="value"),
        pytest.param('val("a b\\n") = "\\x41"', compare_value("a b\n", "=", "A"), id="value-escapes"),
        pytest.param('lease("k") = "4cada20b"', compare_lease("k", "=", 0x4CADA20B), id="lease-is-hex"),
        pytest.param('mod("k")>"3"', compare_mod("k", ">", 3), id="no-blanks"),
        pytest.param("mod(k) > 3", compare_mod("k", ">", 3), id="no-quotes"),
        pytest.param('value("a)b") = "("', compare_value("a)b", "=", "("), id="brackets-in-quotes"),
    ],
)
def test_a_comparison_is_understood(line: str, expected: rpc_pb2.Compare) -> None:
    assert parse_compare(line) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("mod k > 1", "malformed comparison", id="no-brackets"),
        pytest.param('mod("k") ~ "1"', "malformed comparison", id="unknown-sign"),
        pytest.param('size("k") > "1"', "unknown target 'size'", id="unknown-target"),
        pytest.param('mod("k") > "x"', "'x' is not a number", id="not-a-number"),
        pytest.param('mod("k") > "99999999999999999999"', "64 bits", id="too-large"),
    ],
)
def test_a_wrong_comparison_is_refused_with_its_line(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_compare(line)


def test_requests_take_the_options_of_the_command_line() -> None:
    assert parse_operation('put k "v 1" --prev-kv') == Operation(
        op_put("k", "v 1", prev_kv=True), RangeView()
    )
    assert parse_operation("del --prefix dir/") == Operation(op_delete(prefix("dir/")), RangeView())
    get = parse_operation("get --prefix dir/ --limit=3 --sort-by MODIFY --order descend --print-value-only")
    assert get.view == RangeView(values_only=True)
    assert get.request == rpc_pb2.RequestOp(
        request_range=rpc_pb2.RangeRequest(
            key=b"dir/",
            range_end=b"dir0",
            limit=3,
            sort_order=rpc_pb2.RangeRequest.DESCEND,
            sort_target=rpc_pb2.RangeRequest.MOD,
        )
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("watch k", "only get, put and del", id="unknown-request"),
        pytest.param("put k", "needs a key and a value", id="put-without-value"),
        pytest.param("get", "KEY", id="get-without-key"),
        pytest.param("get k --bogus", "bogus", id="unknown-option"),
        pytest.param("get a b --prefix", "only one argument", id="contradiction"),
    ],
)
def test_a_wrong_request_is_refused(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_operation(line)
