"""Whatever a client that nobody here wrote finds in etcd it finds in kvnode.

The checks themselves are in the programs, ``tests/compat/<language>``.
"""

from typing import Any

import pytest


def test_the_client_finds_what_it_expects(session: Any, check: str) -> None:
    why = session.talk.result(check)
    if why is not None:
        pytest.fail(why, pytrace=False)


def test_all_members_hold_the_same_in_the_end(session: Any) -> None:
    session.members.assert_alike()
