"""What a client can do wrong, and how far the damage goes."""

__all__ = ["Http2ConnectionError", "Http2StreamError"]


class Http2ConnectionError(Exception):
    """The connection can't go on: it ends with GOAWAY and this error code (RFC 9113 section 5.4.1)."""

    def __init__(self, error_code: int, reason: str) -> None:
        super().__init__(reason)
        self.error_code = error_code
        self.reason = reason


class Http2StreamError(Exception):
    """One stream can't go on: it ends with RST_STREAM and this error code (RFC 9113 section 5.4.2)."""

    def __init__(self, stream_id: int, error_code: int) -> None:
        super().__init__(f"stream {stream_id}: error {error_code:#x}")
        self.stream_id = stream_id
        self.error_code = error_code
