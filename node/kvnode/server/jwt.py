"""Signed tokens: whoever holds the public key can tell whom they stand for.

They survive restarts and cost no memory, but can't be taken back before they run out: what protects data
from an old one is the auth revision inside it.
"""

import logging
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.x509 import load_pem_x509_certificate

from kvnode.apply.auth_commands import AuthEvent
from kvnode.auth.caller import Caller
from kvnode.server.config import JwtConfig
from kvnode.server.errors import ExitCode, StartError
from kvnode.status import KvError, StatusCode

__all__ = ["JwtTokens", "VerifyOnlyError"]

logger = logging.getLogger(__name__)

#: Above all that there will ever be, and below what stands for members.
_HIGHEST_REVISION: Final = 2**63 - 1

#: The least that a secret should have (RFC 7518 section 3.2, for SHA-256).
_SECRET_BYTES: Final = 32

#: Verified tokens kept, so that a signature is checked once and not at every request.
_CACHE_COUNT: Final = 10_000

_PRIVATE_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "RS": (RSAPrivateKey,),
    "PS": (RSAPrivateKey,),
    "ES": (EllipticCurvePrivateKey,),
    "Ed": (Ed25519PrivateKey,),
}
_PUBLIC_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "RS": (RSAPublicKey,),
    "PS": (RSAPublicKey,),
    "ES": (EllipticCurvePublicKey,),
    "Ed": (Ed25519PublicKey,),
}


class VerifyOnlyError(KvError):
    """This member has no key to sign with: tokens come from elsewhere."""

    code = StatusCode.UNKNOWN
    text = "auth: token signing attempted with verify-only key"

    @property
    def message(self) -> str:
        """The raw text: etcd sends this one without its prefix."""
        return str(self.args[0])


class _Verified(NamedTuple):
    caller: Caller
    #: Seconds since the epoch; None: never.
    expires_s: float | None


class JwtTokens:
    """``server.tokens.Tokens`` with JSON web tokens (RFC 7519).

    Claims, as in etcd: ``username``, ``revision``, ``exp``.
    """

    def __init__(self, config: JwtConfig, *, wall_s: Callable[[], float] = time.time) -> None:
        self._method = config.sign_method
        self._ttl_s = config.ttl_s
        self._wall_s = wall_s
        self._signing_key, self._checking_key = _keys(config)
        self._verified: OrderedDict[str, _Verified] = OrderedDict()
        self._try_keys()

    def _try_keys(self) -> None:
        """Make sure at the start that the keys fit the method, and not at the first login."""
        if self._signing_key is None:
            return
        try:
            token = jwt.encode({}, self._signing_key, algorithm=self._method)
            jwt.decode(token, self._checking_key, algorithms=[self._method])
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise _unusable(str(error)) from error

    def new_prefix(self) -> str:
        return ""

    def issue(self, user: str, auth_revision: int, assigned: str) -> str:
        if self._signing_key is None:
            raise VerifyOnlyError
        claims = {
            "username": user,
            "revision": auth_revision,
            "exp": int(self._wall_s() + self._ttl_s),
        }
        return jwt.encode(claims, self._signing_key, algorithm=self._method)

    def caller(self, token: str, auth_revision: int) -> Caller | None:
        found = self._verified.get(token)
        if found is None:
            found = self._verify(token)
            if found is None:
                return None
            self._verified[token] = found
            if len(self._verified) > _CACHE_COUNT:
                self._verified.popitem(last=False)
        if found.expires_s is not None and found.expires_s <= self._wall_s():
            del self._verified[token]
            return None
        return found.caller

    def _verify(self, token: str) -> _Verified | None:
        try:
            # Only the one method: what a token says of itself must not choose it.  Expiry is looked at by
            # the caller, by the same clock as in every later use.
            claims: dict[str, Any] = jwt.decode(
                token,
                self._checking_key,
                algorithms=[self._method],
                # What etcd does not look at; a token from elsewhere may say it in its own way.
                options={
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_iss": False,
                    "verify_jti": False,
                    "verify_sub": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            return None
        user, revision, expires = claims.get("username"), claims.get("revision"), claims.get("exp")
        if not isinstance(user, str) or not user or not _is_number(revision):
            return None
        if expires is not None and not _is_number(expires):
            return None
        try:
            # A name must be text that can be stored, and neither number infinite.
            user.encode()
            caller = Caller(user, min(max(0, int(revision)), _HIGHEST_REVISION))
            return _Verified(caller, None if expires is None else float(expires))
        except (ValueError, OverflowError):
            return None

    def index_of(self, token: str) -> int:
        return 0

    def apply(self, events: Iterable[AuthEvent]) -> None:
        """Nothing to remember, and nothing to forget."""

    def clear(self) -> None:
        """Nothing to forget."""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _keys(config: JwtConfig) -> tuple[Any, Any]:
    """Return the key that signs, or None, and the key that checks."""
    if config.sign_method.startswith("HS"):
        # One secret for both; etcd too reads it from the private key's file, whatever its form.
        if config.private_key is None:
            raise _unusable("auth: missing key data")
        secret = _read(config.private_key)
        if not secret:
            raise _unusable("auth: missing key data")
        if len(secret) < _SECRET_BYTES:
            logger.warning("the secret that signs tokens is short: it can be guessed from a token")
            # Said once is enough; the library would say it at every token.
            warnings.filterwarnings("ignore", message="The HMAC key is")
        return secret, secret
    family = config.sign_method[:2]
    private = public = None
    if config.private_key is not None:
        private = _load(config.private_key, _private_key, _PRIVATE_KEYS[family], config.sign_method)
    if config.public_key is not None:
        public = _load(config.public_key, _public_key, _PUBLIC_KEYS[family], config.sign_method)
    if private is None:
        if public is None:
            raise _unusable("auth: missing key data")
        return None, public
    own_public = private.public_key()
    if public is not None and _encoded(public) != _encoded(own_public):
        raise _unusable("auth: public and private keys don't match")
    return private, own_public


def _load(path: Path, parse: Callable[[bytes], Any], kinds: tuple[type, ...], method: str) -> Any:
    data = _read(path)
    try:
        key = parse(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(f"{path} holds no key that can be read: {error}") from error
    if not isinstance(key, kinds):
        raise _unusable(f"the key in {path} is not one for {method}")
    return key


def _private_key(data: bytes) -> object:
    return serialization.load_pem_private_key(data, password=None)


def _public_key(data: bytes) -> object:
    if b"BEGIN CERTIFICATE" in data:
        return load_pem_x509_certificate(data).public_key()
    return serialization.load_pem_public_key(data)


def _encoded(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(f"{path}: {error.strerror}") from error


def _unusable(reason: str) -> StartError:
    return StartError(f"--auth-token can't be used: {reason}", exit_code=ExitCode.CONFIG)
