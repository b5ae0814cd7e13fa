"""What every service does around its own work: may this member answer, to whom, and with which header."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from kvnode.api.errors import LearnerNotSupportedError, malformed_request
from kvnode.api.port import Call, RpcError, UnaryCall, UnaryHandler
from kvnode.auth.caller import Caller
from kvnode.auth.errors import AuthRevisionOldError, InvalidTokenError, UserEmptyError
from kvnode.mvcc.records import varint
from kvnode.pb.rpc_pb2 import ResponseHeader
from kvnode.server.errors import NoLeaderError
from kvnode.status import KvError

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort

__all__ = ["Access", "Gate", "token_of"]

RequestT = TypeVar("RequestT", bound=Message)

_BEARER = "bearer "


class Access(Enum):
    """Who may call a method while auth is on."""

    ANYBODY = "anybody"
    ANY_USER = "any user"
    ROOT = "holders of the role root"


def token_of(call: Call) -> str | None:
    """Return the token that a call shows, or None."""
    metadata = call.metadata
    token = metadata.get("token")
    if token is None:
        token = metadata.get("authorization")
    if token is not None and token[: len(_BEARER)].lower() == _BEARER:
        return token[len(_BEARER) :]
    return token


class Gate:
    """The checks and headers that are common to all services of one member."""

    def __init__(self, member: MemberPort) -> None:
        self.member = member
        #: From the first signal to stop: probes say so, and no stream begins any more.
        self.is_stopping = False
        #: The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = ResponseHeader(
            cluster_id=member.cluster_id, member_id=member.member_id
        ).SerializeToString()
        #: The header made last and what it was made of: many answers share one.
        self._encoded = b""
        self._encoded_of = (0, 0)
        self._common_name_is_user = member.config.common_name_is_user

    def refusal(self, call: Call, *, serves_learner: bool = False) -> KvError | None:
        """Return why this member can't answer the call, or None."""
        member = self.member
        if member.is_learner and not serves_learner:
            return LearnerNotSupportedError()
        # Asked first because it is almost never so: reading metadata costs more.
        if member.leader_id == 0 and call.metadata.get("hasleader") == "true":
            return NoLeaderError()
        return None

    def caller(self, call: Call) -> Caller | None:
        """Return on whose behalf a call is made; None while auth is off.

        Raises:
            InvalidTokenError: it shows a token that stands for nobody.
            UserEmptyError: it names nobody.
        """
        auth = self.member.applier.auth
        if not auth.is_enabled:
            return None
        token = token_of(call)
        if token is not None:
            caller = self.member.tokens.caller(token, auth.revision)
            if caller is None:
                raise InvalidTokenError
            return caller
        # What a gateway passes on comes with the gateway's own certificate, which is nobody's.
        if self._common_name_is_user and call.common_name and "grpcgateway-accept" not in call.metadata:
            return Caller(call.common_name, auth.revision)
        raise UserEmptyError

    def reader(self, call: Call) -> Caller | None:
        """As ``caller``, for one who reads: users and roles here have to be those of the identity.

        Raises:
            AuthRevisionOldError: this member knows other users and roles than whoever made the token.
        """
        caller = self.caller(call)
        if caller is not None and caller.auth_revision != self.member.applier.auth.revision:
            raise AuthRevisionOldError
        return caller

    def admit(self, call: Call, access: Access) -> Caller | None:
        """Return the caller of a method that is open to ``access``; None while auth is off.

        Raises:
            AuthError: the call is not let in.
        """
        if access is Access.ANYBODY:
            return None
        caller = self.caller(call)
        if caller is not None and access is Access.ROOT:
            self.member.applier.auth.check_root(caller)
        return caller

    def fill(self, header: ResponseHeader) -> None:
        """Complete a header; a revision that is already there stays."""
        member = self.member
        header.cluster_id = member.cluster_id
        header.member_id = member.member_id
        header.raft_term = member.term
        if not header.revision:
            header.revision = member.applier.store.current_revision

    def encoded_header(self, revision: int) -> bytes:
        """Return a complete header as field 1 of a serialized response."""
        term = self.member.term
        if self._encoded_of != (revision, term):
            header = self._ids + b"\x18" + varint(revision)
            if term:
                header += b"\x20" + varint(term)
            self._encoded = b"\x0a" + varint(len(header)) + header
            self._encoded_of = (revision, term)
        return self._encoded

    def fill_without_revision(self, header: ResponseHeader) -> None:
        """Complete a header of the Cluster service, which says nothing about keys."""
        member = self.member
        header.cluster_id = member.cluster_id
        header.member_id = member.member_id
        header.raft_term = member.term

    def coroutine(
        self,
        request_type: type[RequestT],
        serve: Callable[[RequestT], Awaitable[Message]],
        *,
        access: Access = Access.ROOT,
        serves_learner: bool = False,
    ) -> UnaryHandler:
        """Make a handler of a coroutine, for calls that are rare or long.

        With auth on it is root's alone, unless ``access`` says otherwise.
        """

        async def serve_admitted(request: RequestT, caller: Caller | None) -> Message:
            return await serve(request)

        return self.coroutine_as(request_type, serve_admitted, access=access, serves_learner=serves_learner)

    def coroutine_as(
        self,
        request_type: type[RequestT],
        serve: Callable[[RequestT, Caller | None], Awaitable[Message]],
        *,
        access: Access = Access.ANY_USER,
        serves_learner: bool = False,
    ) -> UnaryHandler:
        """``coroutine`` for what depends on the caller, who is None while auth is off."""

        def handler(payload: bytes, call: UnaryCall) -> None:
            refused = self.refusal(call, serves_learner=serves_learner)
            if refused is not None:
                call.fail(refused.code, refused.message)
                return
            try:
                request = request_type.FromString(payload)
            except DecodeError as error:
                call.fail(*malformed_request(error))
                return
            try:
                caller = self.admit(call, access)
            except KvError as error:
                call.fail(error.code, error.message)
                return
            task = asyncio.get_running_loop().create_task(self._answer(serve(request, caller), call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return handler

    async def _answer(self, answering: Awaitable[Message], call: UnaryCall) -> None:
        try:
            response = await answering
        except (KvError, RpcError) as error:
            call.fail(error.code, error.message)
        except Exception as error:
            # The caller must not wait for ever because of our bug; the loop's handler logs it.
            call.fail(KvError.code, str(error))
            raise
        else:
            call.reply(response.SerializeToString())
