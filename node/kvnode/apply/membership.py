"""Who belongs to the cluster, as the log says.

The membership is part of the replicated state: every change is checked again when it is applied, so all
members refuse the same ones, however stale the proposer's view was.
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kvnode.apply.errors import (
    ApplyError,
    CommandFormatError,
    MemberIdExistsError,
    MemberNotFoundError,
    MemberNotLearnerError,
    NotEnoughVotersError,
    PeerUrlExistsError,
    TooManyLearnersError,
)
from kvnode.raft.types import ConfChange, ConfChangeKind, ConfState, MemberId
from kvnode.storage.engine import ReadView, WriteBatch
from kvnode.storage.keyspace import (
    MEMBER_PREFIX,
    REMOVED_PREFIX,
    id_of_key,
    member_key,
    meta_key,
    prefix_end,
    removed_key,
)

__all__ = [
    "CLUSTER_ID_KEY",
    "CONF_STATE_KEY",
    "MemberAttributes",
    "MemberChange",
    "MemberRecord",
    "Membership",
    "decode_conf_state",
    "decode_member_attributes",
    "decode_member_change",
    "encode_conf_state",
    "encode_member_attributes",
    "encode_member_change",
]

CLUSTER_ID_KEY: Final = meta_key("cluster_id")
CONF_STATE_KEY: Final = meta_key("conf_state")
_REQUEST_ID: Final = struct.Struct(">Q")


class MemberRecord(NamedTuple):
    """One member.  A member that has not started yet has no name and no client URLs."""

    id: MemberId
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    def encode(self) -> bytes:
        """Return the stored value; the ID is in the key."""
        return _json(
            {
                "name": self.name,
                "peer_urls": list(self.peer_urls),
                "client_urls": list(self.client_urls),
                "is_learner": self.is_learner,
            }
        )

    @classmethod
    def decode(cls, member_id: int, data: bytes) -> "MemberRecord":
        """Return the member whose value ``encode`` wrote."""
        fields = _fields(data)
        return cls(
            MemberId(member_id),
            fields["name"],
            tuple(fields["peer_urls"]),
            tuple(fields["client_urls"]),
            fields["is_learner"],
        )


class MemberChange(NamedTuple):
    """A conf change with what its context says: who asked, and the member's URLs."""

    request_id: int
    kind: ConfChangeKind
    member_id: MemberId
    #: Empty for a removal and for a promotion.
    peer_urls: tuple[str, ...] = ()
    #: An ADD_VOTER of a member that must be a learner now.
    is_promotion: bool = False
    #: Set by who knows them already (bootstrap, tests); usually the member says them itself later.
    name: str = ""
    client_urls: tuple[str, ...] = ()


class MemberAttributes(NamedTuple):
    """Payload of MEMBER_ATTRIBUTES; None leaves a field as it is."""

    member_id: MemberId
    name: str | None = None
    client_urls: tuple[str, ...] | None = None
    peer_urls: tuple[str, ...] | None = None


def encode_member_change(change: MemberChange) -> ConfChange:
    """Return the conf change to propose; its context is the request ID u64, then JSON."""
    context = {
        "peer_urls": list(change.peer_urls),
        "is_promotion": change.is_promotion,
        "name": change.name,
        "client_urls": list(change.client_urls),
    }
    return ConfChange(change.kind, change.member_id, _REQUEST_ID.pack(change.request_id) + _json(context))


def decode_member_change(change: ConfChange) -> MemberChange:
    """Return what ``encode_member_change`` was given.

    Raises:
        CommandFormatError: the context was not made by it.
    """
    if len(change.context) < _REQUEST_ID.size:
        raise CommandFormatError("a conf change without request ID")
    (request_id,) = _REQUEST_ID.unpack_from(change.context)
    fields = _fields(change.context[_REQUEST_ID.size :])
    return MemberChange(
        request_id,
        change.kind,
        change.member_id,
        tuple(fields["peer_urls"]),
        fields["is_promotion"],
        fields["name"],
        tuple(fields["client_urls"]),
    )


def encode_member_attributes(attributes: MemberAttributes) -> bytes:
    """Return the payload of a MEMBER_ATTRIBUTES command."""
    fields: dict[str, object] = {"id": attributes.member_id}
    if attributes.name is not None:
        fields["name"] = attributes.name
    if attributes.client_urls is not None:
        fields["client_urls"] = list(attributes.client_urls)
    if attributes.peer_urls is not None:
        fields["peer_urls"] = list(attributes.peer_urls)
    return _json(fields)


def decode_member_attributes(payload: bytes) -> MemberAttributes:
    """Return what ``encode_member_attributes`` was given.

    Raises:
        CommandFormatError: the payload was not made by it.
    """
    fields = _fields(payload)
    client_urls, peer_urls = fields.get("client_urls"), fields.get("peer_urls")
    return MemberAttributes(
        MemberId(fields["id"]),
        fields.get("name"),
        None if client_urls is None else tuple(client_urls),
        None if peer_urls is None else tuple(peer_urls),
    )


def encode_conf_state(conf_state: ConfState) -> bytes:
    """Return the stored value of the raft membership."""
    return _json({"voters": list(conf_state.voters), "learners": list(conf_state.learners)})


def decode_conf_state(data: bytes) -> ConfState:
    """Return the raft membership that ``encode_conf_state`` wrote."""
    fields = _fields(data)
    return ConfState(tuple(fields["voters"]), tuple(fields["learners"]))


class Membership:
    """The members, the IDs that never return, and the cluster's ID."""

    def __init__(self, cluster_id: int, members: Iterable[MemberRecord], removed: Iterable[int]) -> None:
        self.cluster_id = cluster_id
        self._members = {member.id: member for member in members}
        self._removed = {MemberId(member_id) for member_id in removed}

    @classmethod
    def open(cls, engine: ReadView) -> "Membership":
        """Read the membership from the state database."""
        cluster_id = int.from_bytes(engine.get(CLUSTER_ID_KEY) or b"", "big")
        members = [
            MemberRecord.decode(id_of_key(key), value)
            for key, value in engine.iterate(MEMBER_PREFIX, prefix_end(MEMBER_PREFIX))
        ]
        removed = [id_of_key(key) for key, _ in engine.iterate(REMOVED_PREFIX, prefix_end(REMOVED_PREFIX))]
        return cls(cluster_id, members, removed)

    @property
    def members(self) -> Mapping[MemberId, MemberRecord]:
        """The members by ID; not to be changed."""
        return self._members

    @property
    def removed(self) -> frozenset[MemberId]:
        """The IDs that were members once."""
        return frozenset(self._removed)

    def sorted(self) -> list[MemberRecord]:
        """The members in order of ID, as every list on the wire has them."""
        return sorted(self._members.values())

    def get(self, member_id: int) -> MemberRecord | None:
        """Return a member, or None."""
        return self._members.get(MemberId(member_id))

    def is_removed(self, member_id: int) -> bool:
        """Whether the ID was a member once and never will be again."""
        return member_id in self._removed

    def with_peer_urls(self, peer_urls: Iterable[str]) -> MemberRecord | None:
        """Return the first member that has one of the peer URLs, or None."""
        wanted = set(peer_urls)
        for member in self.sorted():
            if wanted.intersection(member.peer_urls):
                return member
        return None

    @property
    def voters(self) -> list[MemberRecord]:
        """The voting members in order of ID."""
        return [member for member in self.sorted() if not member.is_learner]

    @property
    def learners(self) -> list[MemberRecord]:
        """The learners in order of ID."""
        return [member for member in self.sorted() if member.is_learner]

    @property
    def conf_state(self) -> ConfState:
        """The membership as raft counts it."""
        return ConfState(
            tuple(member.id for member in self.voters), tuple(member.id for member in self.learners)
        )

    def check(self, change: MemberChange, *, max_learners: int | None = None) -> ApplyError | None:
        """Return why ``change`` is refused, or None.

        ``max_learners`` is a member's flag, so it is checked by the proposer only: at apply members
        with other flags would decide differently.
        """
        member_id = change.member_id
        if member_id in self._removed:
            return MemberNotFoundError()
        member = self._members.get(member_id)
        if change.kind is ConfChangeKind.REMOVE:
            if member is None:
                return MemberNotFoundError()
            is_last_voter = not member.is_learner and len(self.voters) == 1
            return NotEnoughVotersError() if is_last_voter else None
        if change.is_promotion:
            if member is None:
                return MemberNotFoundError()
            return None if member.is_learner else MemberNotLearnerError()
        if member is not None:
            return MemberIdExistsError()
        if self.with_peer_urls(change.peer_urls) is not None:
            return PeerUrlExistsError()
        if (
            change.kind is ConfChangeKind.ADD_LEARNER
            and max_learners is not None
            and len(self.learners) >= max_learners
        ):
            return TooManyLearnersError()
        return None

    def check_attributes(self, attributes: MemberAttributes) -> ApplyError | None:
        """Return why new attributes are refused, or None."""
        member = self._members.get(attributes.member_id)
        if member is None:
            return MemberNotFoundError()
        if attributes.peer_urls is not None:
            wanted = set(attributes.peer_urls)
            for other in self._members.values():
                if other.id != member.id and wanted.intersection(other.peer_urls):
                    return PeerUrlExistsError()
        return None

    def apply(self, change: MemberChange, batch: WriteBatch) -> None:
        """Make a checked change, here and in ``batch``."""
        member_id = change.member_id
        if change.kind is ConfChangeKind.REMOVE:
            del self._members[member_id]
            self._removed.add(member_id)
            batch.delete(member_key(member_id))
            batch.put(removed_key(member_id), b"")
        elif change.is_promotion:
            self._set(self._members[member_id]._replace(is_learner=False), batch)
        else:
            is_learner = change.kind is ConfChangeKind.ADD_LEARNER
            self._set(
                MemberRecord(member_id, change.name, change.peer_urls, change.client_urls, is_learner), batch
            )
        batch.put(CONF_STATE_KEY, encode_conf_state(self.conf_state))

    def apply_attributes(self, attributes: MemberAttributes, batch: WriteBatch) -> None:
        """Set a member's checked attributes, here and in ``batch``; keeps it learner or voter."""
        member = self._members[attributes.member_id]
        if attributes.name is not None:
            member = member._replace(name=attributes.name)
        if attributes.client_urls is not None:
            member = member._replace(client_urls=attributes.client_urls)
        if attributes.peer_urls is not None:
            member = member._replace(peer_urls=attributes.peer_urls)
        self._set(member, batch)

    def _set(self, member: MemberRecord, batch: WriteBatch) -> None:
        self._members[member.id] = member
        batch.put(member_key(member.id), member.encode())


def write_members(
    batch: WriteBatch, cluster_id: int, members: Sequence[MemberRecord], conf_state: ConfState
) -> None:
    """Put a whole first membership into ``batch``."""
    batch.put(CLUSTER_ID_KEY, cluster_id.to_bytes(8, "big"))
    batch.put(CONF_STATE_KEY, encode_conf_state(conf_state))
    for member in members:
        batch.put(member_key(member.id), member.encode())


def _json(fields: Mapping[str, object]) -> bytes:
    # Sorted and without spaces: equal values are equal bytes on every member.
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _fields(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise CommandFormatError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CommandFormatError("not a JSON object")
    return fields
