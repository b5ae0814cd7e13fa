"""Keeps the watch hub reading for those watchers that are behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort

__all__ = ["CatchUp"]

#: A watcher that took no more is offered its events again after this long, unless its stream says
#: sooner that there is room.
RETRY_S = 0.05
#: While streams are open: how often to look for watchers that fell behind unnoticed, as all do when a
#: snapshot replaces the state.
LOOK_S = 0.1
#: A slice of less than this delays nobody.
QUICK_S = 0.0005


class CatchUp:
    """Calls ``catch_up`` of the hub in slices, one to a turn of the loop, while there is need."""

    def __init__(self, member: MemberPort) -> None:
        self._member = member
        self._streams = 0
        self._soon: asyncio.Handle | None = None
        #: What the last slice took.
        self._took_s = 0.0
        self._later: asyncio.TimerHandle | None = None

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return self._streams

    def stream_opened(self) -> None:
        """Begin to look after watchers, if this is the first stream."""
        self._streams += 1
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def stream_closed(self) -> None:
        """Stop looking after the last stream."""
        self._streams -= 1
        if not self._streams and self._later is not None:
            self._later.cancel()
            self._later = None

    def kick(self) -> None:
        """Serve those behind soon: after as long as the last slice took.

        So at most half of the time goes into catching up, and watchers that come in crowds are
        served together: what one slice reads is read once for all of them.
        """
        if self._soon is None:
            loop = asyncio.get_running_loop()
            if self._took_s < QUICK_S:
                self._soon = loop.call_soon(self._serve)
            else:
                self._soon = loop.call_later(min(self._took_s, RETRY_S), self._serve)

    def _look(self) -> None:
        is_behind = self._member.hub.needs_catch_up
        self._later = asyncio.get_running_loop().call_later(RETRY_S if is_behind else LOOK_S, self._look)
        if is_behind:
            self.kick()

    def _serve(self) -> None:
        self._soon = None
        now_s = asyncio.get_running_loop().time
        begun_s = now_s()
        is_behind = self._member.hub.catch_up()
        self._took_s = now_s() - begun_s
        if is_behind:
            self.kick()
