"""Changes of the membership, as far as they need no quorum to be tried."""

from types import SimpleNamespace
from typing import Any, cast

from kvnode.apply.errors import MemberNotFoundError
from kvnode.server.reconfiguration import Reconfiguration


class LateFollower:
    """It hears of a member that was added elsewhere only with the next linearizable read."""

    def __init__(self) -> None:
        self.knows_it = False
        self.proposals = 0
        self.applier = SimpleNamespace(membership=self)

    def check_attributes(self, attributes: object) -> MemberNotFoundError | None:
        return None if self.knows_it else MemberNotFoundError()

    async def confirm_linearizable(self) -> None:
        self.knows_it = True

    async def proposed(self, kind: object, payload: bytes) -> None:
        self.proposals += 1


async def test_a_member_that_was_just_added_elsewhere_can_be_updated() -> None:
    member = LateFollower()
    await Reconfiguration(cast(Any, member)).update(1, ["http://127.0.0.1:1"])
    assert member.proposals == 1
