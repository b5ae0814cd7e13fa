"""Text forms that etcdctl's users know: quoted strings, durations, sizes, hexadecimal ids."""

__all__ = ["duration", "hex_escaped", "hex_id", "quoted", "size"]

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}


def quoted(data: bytes | str) -> str:
    """A Go string literal: printable text as it is, every other byte escaped."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # A byte that is not UTF-8, as surrogateescape carries it.
        return f"\\x{number - 0xDC00:02x}"
    if character.isprintable():
        return character
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def duration(seconds: float) -> str:
    """A duration as Go prints one: ``3.406955ms``, ``1.5s``, ``2m0s``."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds < 1_000:
        return f"{nanoseconds}ns" if nanoseconds else "0s"
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.6g}µs"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1e6:.9g}ms"
    minutes, rest = divmod(nanoseconds, 60 * 1_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1e9:.11g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def size(count_bytes: int) -> str:
    """Bytes in decimal units with at most two digits before the point: ``20 kB``, ``2.1 GB``."""
    if count_bytes < 10:
        return f"{count_bytes} B"
    value, unit = float(count_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    rounded = int(value * 10 + 0.5) / 10
    return f"{rounded:.1f} {unit}" if rounded < 10 else f"{rounded:.0f} {unit}"


def hex_id(number: int) -> str:
    """Ids of members, clusters and leases."""
    return f"{number:x}"


def hex_escaped(data: bytes) -> str:
    """Every byte as ``\\x6b``."""
    return "".join(f"\\x{byte:02x}" for byte in data)
