"""On whose behalf a request runs."""

from typing import Final, NamedTuple

__all__ = ["ANONYMOUS", "MEMBER", "Caller"]


class Caller(NamedTuple):
    """A user as a request's token or certificate names it; whether the user exists is another matter."""

    user: str
    #: The auth revision that the identity was established at.  Data may be touched only while it is the
    #: present one, so that nothing is decided by permissions that have changed meanwhile.
    auth_revision: int


#: A request without identity; real revisions start at 1.
ANONYMOUS: Final = Caller("", 0)

#: A member that does by itself what clients do in their own name: nobody is to be checked.
MEMBER: Final = Caller("", 2**64 - 1)
