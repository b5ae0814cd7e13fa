"""Committed entries stay in the core while the shell can't apply more; everything else goes on."""

from kvtest.raft_world import World


def test_nothing_is_handed_out_to_be_applied_until_the_shell_can_take_more():
    world = World((1, 2, 3))
    world.elect(1)
    world[2].hold_committed(holds=True)
    world[1].propose([b"x"])
    world.settle()
    assert [world.applied_data(number) for number in (1, 2, 3)] == [[b"x"], [], [b"x"]]
    assert world[2].commit_index == 3
    assert not world[2].has_ready()
    world[2].hold_committed(holds=False)
    assert world[2].has_ready()
    world.settle()
    assert world.applied_data(2) == [b"x"]


def test_a_leader_that_applies_nothing_goes_on_to_commit_and_to_confirm_reads():
    world = World((1, 2, 3))
    world.elect(1)
    world[1].hold_committed(holds=True)
    world[1].propose([b"x"])
    world[1].read_index(b"read")
    world.settle()
    assert [world[number].commit_index for number in (1, 2, 3)] == [3, 3, 3]
    assert world.applied_data(1) == []
    assert [state.context for state in world.members[1].read_states] == [b"read"]
