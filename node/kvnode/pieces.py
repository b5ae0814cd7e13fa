"""What comes in pieces and is joined once, when it is whole."""

from typing import Final

__all__ = ["add_piece"]

_SMALL_BYTES: Final = 4096


def add_piece(pieces: list[bytes], piece: bytes) -> None:
    """Add a piece behind those that are there, of which there is one at least.

    It is joined with the last one while that is small: each costs memory of its own, and a sender may make
    them as small as it likes.
    """
    if len(pieces[-1]) < _SMALL_BYTES:
        pieces[-1] += piece
    else:
        pieces.append(piece)
