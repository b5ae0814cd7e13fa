"""The operator killed between two effects of every operation; `kvtest.operator_failpoints` has the rules.

Here some points of each, chosen by a seed; ``make failpoints`` tries them all.
"""

import os
import random

import pytest
from kvtest.operator_failpoints import OPERATIONS, Failure, Operation, Point, live, points_of

SEED = int(os.environ.get("KVOPERATOR_FAILPOINT_SEED", "1"))
POINTS = 6


@pytest.mark.parametrize("operation", [pytest.param(one, id=one.name) for one in OPERATIONS])
async def test_an_operator_that_fails_anywhere_ends_the_operation_with_no_more_disturbance(
    operation: Operation,
) -> None:
    undisturbed = await live(operation, None)
    assert not undisturbed.trouble, "\n".join(undisturbed.log)
    points = points_of(undisturbed.life)
    assert points, "an operation without an effect is none"
    for point in random.Random(SEED).sample(points, min(POINTS, len(points))):
        outcome = await live(operation, point, undisturbed.life)
        effect = undisturbed.life.effects[point.effect]
        assert not outcome.trouble, f"{point.failure} {effect}: {outcome.trouble}\n" + "\n".join(outcome.log)


async def test_a_lost_request_is_not_taken_for_one_that_changed_nothing() -> None:
    """Else pods would be restarted for ever by a template that was never written."""
    (rollout,) = (one for one in OPERATIONS if one.name == "rolling update")
    undisturbed = await live(rollout, None)
    effect = undisturbed.life.effects.index("apply statefulsets")
    outcome = await live(rollout, Point(effect, Failure.REQUEST_LOST), undisturbed.life)
    assert not outcome.trouble, "\n".join(outcome.log)


async def test_a_failure_that_makes_a_second_disturbance_is_found() -> None:
    """The check itself: the disturbances of one operation are not those of another."""
    by_name = {one.name: one for one in OPERATIONS}
    other = await live(by_name["replace: volume empty"], None)
    outcome = await live(by_name["replace: volume damaged"], None, other.life)
    assert "disturbed more than needed" in outcome.trouble
