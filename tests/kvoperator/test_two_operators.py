"""Two operators that both believe to lead, with their requests mixed at random, and reads that are stale."""

import asyncio
import inspect
import random
from collections.abc import Callable
from typing import Any

import pytest
from kvoperator.clients.kube import CLAIMS, CLUSTERS, PODS, Manifest, ResourceType
from kvoperator.errors import KubeError
from kvoperator.events import EventRecorder
from kvoperator.model import names
from kvoperator.model.status import Images
from kvoperator.reconcile import ClusterReconciler
from kvtest.operator_world import NAME, NAMESPACE, AlwaysLeading, FakeMembers, World

SEEDS = 4


class Mixed:
    """Calls of ``inner`` that let others go first, now and then."""

    def __init__(self, inner: object, random: random.Random) -> None:
        self._inner, self._random = inner, random

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self._inner, name)
        assert inspect.iscoroutinefunction(method)

        async def call(*arguments: Any, **options: Any) -> Any:
            for _ in range(self._random.choice([0, 1, 3, 20])):
                await asyncio.sleep(0)
            return await method(*arguments, **options)

        return call


class Outdated:
    """An API server that shows a KVCluster as it was some writes ago."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_stale = True
        self._seen: list[Manifest] = []

    async def get(self, resource: ResourceType, namespace: str, name: str) -> Manifest | None:
        live = await self._world.kube.get(resource, namespace, name)
        if resource is not CLUSTERS or live is None:
            return live
        self._seen.append(live)
        if not self.is_stale:
            return live
        return self._world.random.choice(self._seen[-6:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.kube, name)


def operator(world: World, kube: Any, members: Any) -> ClusterReconciler:
    async def connect(_namespace: str, _spec: object) -> Any:
        return members

    return ClusterReconciler(
        kube=kube,
        connect=connect,
        events=EventRecorder(kube, "test"),
        guard=AlwaysLeading(),
        default_images=Images(node="node:1", agent="operator:1"),
        clock=world.clock,
    )


async def one_pass(reconciler: ClusterReconciler) -> None:
    try:
        await reconciler.run_pass(NAMESPACE, NAME)
    except KubeError:
        pass


def assert_as_specified(world: World, replicas: int) -> None:
    assert sorted(one.name for one in world.voters()) == [names.pod_name(NAME, n) for n in range(replicas)]
    pods = [pod["metadata"]["name"] for pod in world.kube.all(PODS, NAMESPACE)]
    claims = [claim["metadata"]["name"] for claim in world.kube.all(CLAIMS, NAMESPACE)]
    assert pods == [names.pod_name(NAME, n) for n in range(replicas)]
    assert claims == [names.claim_name(NAME, n) for n in range(replicas)]


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_two_operators_that_both_act_break_no_rule(seed: int) -> None:
    world = World(seed, replicas=3)
    await world.settle()
    both = [
        operator(world, Mixed(world.kube, world.random), Mixed(FakeMembers(world), world.random))
        for _ in range(2)
    ]
    world.is_operator_acting = True
    for turn in range(160):
        if turn % 25 == 0 and turn < 120:
            world.set_replicas(world.random.choice([1, 3, 5]))
        if turn % 40 == 20:
            world.break_something()
        world.now_s += 1
        world.run_controllers()
        await asyncio.gather(*(one_pass(one) for one in both))
        world.check()
    world.is_operator_acting = False
    world.set_replicas(3)
    await world.settle()
    assert_as_specified(world, 3)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_stale_cluster_leads_to_no_rule_being_broken(seed: int) -> None:
    """As with a cache that lags: the spec and the operation in flight are old ones."""
    world = World(seed, replicas=3)
    await world.settle()
    stale = Outdated(world)
    reconciler = operator(world, stale, FakeMembers(world))
    world.is_operator_acting = True
    for turn in range(120):
        if turn % 20 == 0:
            world.set_replicas(world.random.choice([1, 3, 5]))
        world.now_s += 1
        world.run_controllers()
        await one_pass(reconciler)
        world.check()
    world.is_operator_acting = False
    world.set_replicas(3)
    await world.settle()
    assert_as_specified(world, 3)
