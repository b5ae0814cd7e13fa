"""What a call that wraps another says of the caller."""

from collections.abc import Mapping
from typing import Generic, TypeVar

from kvnode.api.port import Call

__all__ = ["WrappedCall"]

_Wrapped = TypeVar("_Wrapped", bound=Call)


class WrappedCall(Generic[_Wrapped]):
    """Answers every question of ``Call`` as the wrapped one does."""

    __slots__ = ("_call",)

    def __init__(self, call: _Wrapped) -> None:
        self._call = call

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._call.metadata

    @property
    def peer(self) -> str:
        return self._call.peer

    @property
    def common_name(self) -> str | None:
        return self._call.common_name

    @property
    def deadline_s(self) -> float | None:
        return self._call.deadline_s

    @property
    def is_cancelled(self) -> bool:
        return self._call.is_cancelled
