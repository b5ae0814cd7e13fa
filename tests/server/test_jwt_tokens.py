"""Signed tokens: what is believed of them and what is not."""

import base64
import datetime
import hashlib
import hmac
import json
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from kvnode.auth.caller import Caller
from kvnode.server.config import JWT_METHODS, ConfigError, JwtConfig
from kvnode.server.errors import StartError
from kvnode.server.jwt import JwtTokens, VerifyOnlyError

RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "RS": RSA,
    "PS": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
SECRET = b"a secret that is long enough for every one of the methods there is!"


class Clock:
    now_s = 1_000_000.0


@pytest.fixture
def clock():
    return Clock()


def key_of(method):
    return KEYS.get(method) or KEYS[method[:2]]


def write_private(path: Path, key) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def write_public(path: Path, key) -> Path:
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path


def config_of(tmp_path, method="RS256", **changes):
    if method.startswith("HS"):
        secret = tmp_path / "secret"
        secret.write_bytes(SECRET)
        return JwtConfig(sign_method=method, private_key=secret, **changes)
    private = write_private(tmp_path / "private.pem", key_of(method))
    public = write_public(tmp_path / "public.pem", key_of(method))
    return JwtConfig(sign_method=method, private_key=private, public_key=public, **changes)


@pytest.fixture
def tokens(tmp_path, clock):
    return JwtTokens(config_of(tmp_path), wall_s=lambda: clock.now_s)


def forged(claims, key=RSA, method="RS256", **headers):
    return jwt.encode(claims, key, algorithm=method, headers=headers or None)


CLAIMS = {"username": "alice", "revision": 7, "exp": 2_000_000}


@pytest.mark.parametrize("method", JWT_METHODS)
def test_every_method_signs_what_it_believes(tmp_path, clock, method):
    tokens = JwtTokens(config_of(tmp_path, method), wall_s=lambda: clock.now_s)
    token = tokens.issue("alice", 7, "")
    assert tokens.caller(token, 9) == Caller("alice", 7)
    assert jwt.get_unverified_header(token)["alg"] == method


def test_a_token_holds_the_claims_that_etcd_writes(tokens, clock):
    body = tokens.issue("alice", 7, "").split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert claims == {"username": "alice", "revision": 7, "exp": int(clock.now_s) + 300}


def test_a_token_runs_out_also_when_it_has_been_seen_before(tokens, clock):
    token = tokens.issue("alice", 7, "")
    assert tokens.caller(token, 7) is not None
    clock.now_s += 299
    assert tokens.caller(token, 7) is not None
    clock.now_s += 1
    assert tokens.caller(token, 7) is None
    assert tokens.caller(token, 7) is None


def test_a_token_of_another_key_is_not_believed(tokens):
    other = rsa.generate_private_key(65537, 2048)
    assert tokens.caller(forged(CLAIMS), 7) == Caller("alice", 7)
    assert tokens.caller(forged(CLAIMS, other), 7) is None


def test_a_token_does_not_choose_its_method(tokens):
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(CLAIMS).encode()).rstrip(b"=")
    signature = base64.urlsafe_b64encode(
        hmac.new(public, head + b"." + body, hashlib.sha256).digest()
    ).rstrip(b"=")
    assert tokens.caller((head + b"." + body + b"." + signature).decode(), 7) is None
    assert tokens.caller(forged(CLAIMS, None, "none"), 7) is None
    assert tokens.caller(forged(CLAIMS, RSA, "PS256"), 7) is None
    assert tokens.caller(forged(CLAIMS, RSA, "RS512"), 7) is None


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"username": "alice"},
        {"revision": 7},
        {"username": "", "revision": 7},
        {"username": "", "revision": 2**64 - 1},
        {"username": 5, "revision": 7},
        {"username": "alice", "revision": "7"},
        {"username": "alice", "revision": True},
        {"username": "alice", "revision": 7, "exp": "later"},
        {"username": "\ud800", "revision": 7},
    ],
)
def test_a_token_without_its_claims_stands_for_nobody(tokens, claims):
    assert tokens.caller(forged(claims), 7) is None


def test_claims_that_etcd_does_not_know_change_nothing(tokens):
    claims = CLAIMS | {"aud": "somebody", "iat": 9e9, "sub": "x"}
    assert tokens.caller(forged(claims), 7) == Caller("alice", 7)


def test_a_revision_out_of_bounds_is_brought_into_them(tokens):
    assert tokens.caller(forged(CLAIMS | {"revision": -5}), 7) == Caller("alice", 0)
    assert tokens.caller(forged(CLAIMS | {"revision": 10**30}), 7) == Caller("alice", 2**63 - 1)


@pytest.mark.parametrize("token", ["", "abc.7", "a.b.c", "." * 100, "ü.ü.ü", "x" * 10_000])
def test_what_is_no_token_stands_for_nobody(tokens, token):
    assert tokens.caller(token, 7) is None
    assert tokens.index_of(token) == 0


def test_a_member_with_the_public_key_alone_checks_and_does_not_sign(tmp_path, tokens, clock):
    public = write_public(tmp_path / "p.pem", RSA)
    checker = JwtTokens(JwtConfig(sign_method="RS256", public_key=public), wall_s=lambda: clock.now_s)
    assert checker.caller(tokens.issue("alice", 7, ""), 7) == Caller("alice", 7)
    with pytest.raises(VerifyOnlyError) as caught:
        checker.issue("alice", 7, "")
    assert caught.value.message == "auth: token signing attempted with verify-only key"


def test_a_certificate_will_do_as_public_key(tmp_path, tokens, clock):
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(RSA.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2040, 1, 1))
        .sign(RSA, hashes.SHA256())
    )
    path = tmp_path / "cert.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    checker = JwtTokens(JwtConfig(sign_method="RS256", public_key=path), wall_s=lambda: clock.now_s)
    assert checker.caller(tokens.issue("alice", 7, ""), 7) == Caller("alice", 7)


def test_keys_that_can_not_work_end_the_start(tmp_path):
    private = write_private(tmp_path / "private.pem", RSA)
    elliptic = write_private(tmp_path / "ec.pem", KEYS["ES384"])
    other = write_public(tmp_path / "other.pem", rsa.generate_private_key(65537, 2048))
    noise, empty = tmp_path / "noise", tmp_path / "empty"
    noise.write_bytes(b"-----BEGIN NOISE-----")
    empty.write_bytes(b"")
    for config, reason in (
        (JwtConfig(sign_method="RS256"), "auth: missing key data"),
        (JwtConfig(sign_method="HS256"), "auth: missing key data"),
        (JwtConfig(sign_method="HS256", private_key=empty), "auth: missing key data"),
        (
            JwtConfig(sign_method="RS256", private_key=private, public_key=other),
            "auth: public and private keys don't match",
        ),
        (JwtConfig(sign_method="ES256", private_key=private), "is not one for ES256"),
        (JwtConfig(sign_method="ES256", private_key=elliptic), "curve"),
        (JwtConfig(sign_method="RS256", private_key=noise), "no key that can be read"),
        (JwtConfig(sign_method="RS256", private_key=tmp_path / "none"), "No such file"),
    ):
        with pytest.raises(StartError) as caught:
            JwtTokens(config)
        assert reason in str(caught.value), config


def test_a_short_secret_works_and_is_warned_of(tmp_path, caplog, clock):
    secret = tmp_path / "secret"
    secret.write_bytes(b"short")
    tokens = JwtTokens(JwtConfig(sign_method="HS256", private_key=secret), wall_s=lambda: clock.now_s)
    assert "short" in caplog.text
    assert tokens.caller(tokens.issue("alice", 7, ""), 7) == Caller("alice", 7)


def test_a_method_that_is_none_is_refused():
    for method in ("", "none", "RS1", "rs256"):
        with pytest.raises(ConfigError):
            JwtConfig(sign_method=method)
