"""Pings both ways: clients that ping too often, and clients that may be gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvnode.rpc.http2.errors import Http2ConnectionError
from kvnode.rpc.http2.frames import ErrorCode

if TYPE_CHECKING:
    from kvnode.rpc.http2.settings import Limits

__all__ = ["Keepalive", "PingLimit"]


class PingLimit:
    """How often a client may ping (gRFC A8)."""

    __slots__ = ("_last_s", "_limits", "_strikes")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._strikes = 0
        self._last_s: float | None = None

    def check(self, now_s: float, *, has_sent: bool) -> None:
        """A ping has come.

        Args:
            now_s: when.
            has_sent: whether the client was sent anything since the ping before: clients measure their
                bandwidth with pings while data come.
        Raises:
            Http2ConnectionError: That was one too many.
        """
        if has_sent:
            self._strikes = 0
        elif self._last_s is not None and now_s - self._last_s < self._limits.ping_min_interval_s:
            self._strikes += 1
            if self._strikes > self._limits.max_ping_strikes:
                # The words that clients of gRPC know.
                raise Http2ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._last_s = now_s


class Keepalive:
    """Whether a client is still there."""

    __slots__ = ("_asked_s", "_limits", "heard_s")

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = limits
        #: When anything came from it.
        self.heard_s = now_s
        self._asked_s: float | None = None

    def should_ask(self, now_s: float) -> bool:
        """Whether it is time for a ping, which the caller then sends."""
        interval_s = self._limits.keepalive_interval_s
        if self._asked_s is not None and self._asked_s > self.heard_s:
            return False
        if 0 < interval_s <= now_s - self.heard_s:
            self._asked_s = now_s
            return True
        return False

    def is_dead(self, now_s: float) -> bool:
        """Whether a ping was left without an answer for too long."""
        asked_s, timeout_s = self._asked_s, self._limits.keepalive_timeout_s
        return asked_s is not None and asked_s > self.heard_s and 0 < timeout_s <= now_s - asked_s
