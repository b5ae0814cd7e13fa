"""How endpoints may be written."""

import pytest
from kvclient.endpoints import Endpoint, parse_endpoint, parse_endpoints


@pytest.mark.parametrize(
    ("text", "has_tls", "target", "is_secure"),
    [
        pytest.param("http://h:1", False, "h:1", False, id="http"),
        pytest.param("https://h:1", False, "h:1", True, id="https"),
        pytest.param("http://h:1", True, "h:1", False, id="http-stays-plain-with-tls-files"),
        pytest.param("h:1", False, "h:1", False, id="no-scheme-is-plain"),
        pytest.param("h:1", True, "h:1", True, id="no-scheme-is-secure-with-tls-files"),
        pytest.param("http://[::1]:2379/", False, "[::1]:2379", False, id="ipv6-and-final-slash"),
        pytest.param("unix:///run/kv.sock", False, "unix:/run/kv.sock", False, id="socket"),
    ],
)
def test_an_endpoint_says_where_and_whether_securely(
    text: str, has_tls: bool, target: str, is_secure: bool
) -> None:
    assert parse_endpoint(text, has_tls=has_tls) == Endpoint(text, target, is_secure)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("ftp://h:1", "unknown scheme 'ftp'", id="scheme"),
        pytest.param("http://h", "must end in host:port", id="no-port"),
        pytest.param("http://h:x", "must end in host:port", id="port-not-a-number"),
        pytest.param("http://h:99999", "must end in host:port", id="port-too-large"),
        pytest.param("http://:2379", "must end in host:port", id="no-host"),
        pytest.param("http://h:1/path", "must not have a path", id="path"),
    ],
)
def test_a_wrong_endpoint_is_named_with_its_fault(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_endpoint(text, has_tls=False)


def test_doubles_and_blanks_are_dropped() -> None:
    parsed = parse_endpoints(["h:1", " h:1 ", "", "g:2"], has_tls=False)
    assert [endpoint.target for endpoint in parsed] == ["h:1", "g:2"]


def test_no_endpoint_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one endpoint"):
        parse_endpoints([" "], has_tls=False)
