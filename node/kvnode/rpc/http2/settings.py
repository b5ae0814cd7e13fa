"""The numbers that every connection of one server goes by."""

from dataclasses import dataclass

from kvnode.rpc.held import HELD_BYTES

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one client may have on its way."""

    max_message_bytes: int
    """Largest request message."""
    max_concurrent_streams: int = 10_000
    """Streams that a connection may have open; a client waits, or is refused, beyond."""
    stream_window_bytes: int = 512 * 1024
    """What a stream may send before it is read: large enough for a local network's bandwidth."""
    connection_window_bytes: int = 4 * 2**20
    max_header_list_bytes: int = 64 * 1024
    """Fields of one request: a token of a few KiB is the largest thing in there."""
    write_buffer_bytes: int = 128 * 1024
    """What waits for a slow reader before answers are held back."""
    held_bytes: int = HELD_BYTES
    """Half-sent requests and waiting answers of all connections: beyond, the one that has most is cut off."""
    stream_bytes: int = 1024
    """What a stream counts for in that, beside its data."""
    turn_cost: int = 1000
    """What is taken from clients in a turn of the loop, in requests: peers and timers are to be heard within
    some tens of milliseconds, whoever floods."""
    ping_min_interval_s: float = 5.0
    """A client that pings more often while nothing is sent gets strikes."""
    max_ping_strikes: int = 2
    keepalive_interval_s: float = 7200.0
    """This side pings a connection that is silent for so long; 0: never."""
    keepalive_timeout_s: float = 20.0
    undecided_timeout_s: float = 120.0
    """Until then a connection has to say which protocol it speaks (grpc-go's number)."""
    max_age_s: float = 0.0
    """A connection is sent away after this time, give or take a tenth; 0: never."""
