"""A member that is told secrets: none is in its log, metrics, status, answers or command line.

Passwords, tokens, the key that tokens are signed with, and keys of certificates are secrets; so are values.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from kvnode.pb import rpc_pb2 as pb
from kvtest.certificates import TestAuthority
from kvtest.processes import ClusterProcesses

PASSWORD, WRONG_PASSWORD, NEW_PASSWORD = "secret-of-root-1", "secret-that-is-wrong-2", "secret-of-root-3"
VALUE, SIGNING_SECRET = b"secret-value-4", b"secret-that-signs-5, of more than thirty-two bytes"
PAGES = ("/metrics", "/version", "/health", "/readyz?verbose", "/livez?verbose", "/debug/vars", "/config")


class Caller:
    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.heard = ""

    def call(self, method: str, request: object, response: type = pb.AuthEnableResponse) -> object | None:
        """The answer, or None: refused.  What was refused with is kept."""
        ask = self._channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,  # type: ignore[attr-defined]
        )
        try:
            answer: object = ask(request, metadata=self.metadata, timeout=20)
        except grpc.RpcError as error:
            self.heard += f"{error.code()} {error.details()}\n"
            return None
        return answer


@pytest.mark.parametrize("is_signed", [False, True], ids=["simple-tokens", "signed-tokens"])
def test_no_secret_is_told_anywhere(
    cluster: Callable[..., ClusterProcesses], tmp_path: Path, is_signed: bool
) -> None:
    flags = {"bcrypt_cost": "4", "log_level": "debug"}
    if is_signed:
        key_file = tmp_path / "signing.key"
        key_file.write_bytes(SIGNING_SECRET)
        flags["auth_token"] = f"jwt,priv-key={key_file},sign-method=HS256,ttl=10m"
    members = cluster(1, **flags)
    member = members[0]
    secrets = [PASSWORD, WRONG_PASSWORD, NEW_PASSWORD, VALUE.decode(), SIGNING_SECRET.decode()]
    with grpc.insecure_channel(member.client_url.partition("://")[2]) as channel:
        caller = Caller(channel)
        caller.call("KV/Put", pb.PutRequest(key=b"k", value=VALUE))
        caller.call("Auth/UserAdd", pb.AuthUserAddRequest(name="root", password=PASSWORD))
        caller.call("Auth/RoleAdd", pb.AuthRoleAddRequest(name="root"))
        caller.call("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root"))
        caller.call("Auth/AuthEnable", pb.AuthEnableRequest())
        wrong = pb.AuthenticateRequest(name="root", password=WRONG_PASSWORD)
        assert caller.call("Auth/Authenticate", wrong) is None
        right = pb.AuthenticateRequest(name="root", password=PASSWORD)
        answer = caller.call("Auth/Authenticate", right, pb.AuthenticateResponse)
        assert isinstance(answer, pb.AuthenticateResponse)
        secrets.append(answer.token)
        caller.metadata = (("token", answer.token),)
        assert caller.call("KV/Put", pb.PutRequest(key=b"k", value=VALUE)) is not None
        forged = answer.token[:-4] + "AAAA"
        secrets.append(forged)
        caller.metadata = (("token", forged),)
        assert caller.call("KV/Put", pb.PutRequest(key=b"k", value=VALUE)) is None
        caller.metadata = (("token", answer.token),)
        change = pb.AuthUserChangePasswordRequest(name="root", password=NEW_PASSWORD)
        assert caller.call("Auth/UserChangePassword", change) is not None
        body = json.dumps({"name": "root", "password": WRONG_PASSWORD}).encode()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{member.client_url}/v3/auth/authenticate", body, timeout=20)
        caller.heard += refused.value.read().decode()
    assert member.process is not None
    exposed = {
        "answers": caller.heard,
        "command line": Path(f"/proc/{member.process.pid}/cmdline").read_bytes().decode(),
        "environment": Path(f"/proc/{member.process.pid}/environ").read_bytes().decode(),
        **{page: member.http_get(page)[1] for page in PAGES},
    }
    member.terminate()
    exposed["log"] = member.log_text
    assert "ready to serve client requests" in exposed["log"]
    found = [(where, secret) for where, text in exposed.items() for secret in secrets if secret in text]
    assert found == []


def test_no_password_is_in_the_data_but_as_a_hash(
    cluster: Callable[..., ClusterProcesses],
) -> None:
    members = cluster(1, bcrypt_cost="4")
    with grpc.insecure_channel(members[0].client_url.partition("://")[2]) as channel:
        Caller(channel).call("Auth/UserAdd", pb.AuthUserAddRequest(name="root", password=PASSWORD))
    members[0].terminate()
    files = [path for path in members[0].data_dir.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]


def test_no_key_of_a_certificate_is_told(tmp_path: Path) -> None:
    files = TestAuthority(tmp_path / "authority").issue("member")
    key_lines = [line for line in files.key_file.read_text().splitlines() if not line.startswith("---")]
    with ClusterProcesses(tmp_path, 1, tls=files, flags={"log-level": "debug"}) as members:
        member = members[0]
        context = ssl.create_default_context(cafile=str(files.ca_file))
        context.load_cert_chain(files.cert_file, files.key_file)
        with urllib.request.urlopen(f"{member.client_url}/metrics", context=context, timeout=20) as answer:
            metrics = answer.read().decode()
        member.terminate()
        exposed = metrics + member.log_text
    assert not [line for line in key_lines if line in exposed]
