"""RaftConfig refuses settings that cannot work, and says which and why."""

import pytest
from kvnode.raft import MemberId, RaftConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("member_id", MemberId(0), "member_id must be positive, is 0"),
        ("max_inflight_messages", 0, "max_inflight_messages must be positive"),
        ("election_timeout_ticks", 1, "election_timeout_ticks is 1, must be at least 2"),
        ("max_inflight_bytes", 5, "max_inflight_bytes is 5, must be at least 1048576"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(field, value, message):
    settings = {"member_id": MemberId(1), "random_ticks": min, field: value}
    with pytest.raises(ValueError, match=message):
        RaftConfig(**settings)
