"""One counter, many clients, faults of every kind: no increment is lost or counts twice, no read is old."""

import asyncio
import random

import pytest
from kvclient import Client, KvClientError
from kvnode.pb import rpc_pb2
from kvtest.processes import ClusterProcesses, MemberProcess
from kvtest.workload import equal_hashes, eventually

KEY = b"counter"
FAULTS = 12
CLIENTS = 4


class Counting:
    """Clients that increase one counter, each by reading it and then writing if it is unchanged."""

    def __init__(self) -> None:
        self.acknowledged = 0
        #: Increments that may have been carried out though their answer was lost.
        self.unclear = 0
        #: The highest value that any client knows to be committed.
        self.floor = 0
        self.is_done = False

    async def run(self, client: Client) -> None:
        """Count until told to end; every attempt is one read and one write."""
        while not self.is_done:
            try:
                await self._increase(client)
            except KvClientError as error:
                self.unclear += error.is_maybe_applied
                await asyncio.sleep(0.01)  # nobody listens for the moment: not a reason to spin

    async def _increase(self, client: Client) -> None:
        floor = self.floor
        record = await client.get(KEY, timeout_s=8.0)
        value = int(record.value) if record is not None else 0
        assert value >= floor, f"read {value} after {floor} had been acknowledged"
        self.floor = max(self.floor, value)
        unchanged = rpc_pb2.Compare(
            target=rpc_pb2.Compare.MOD,
            result=rpc_pb2.Compare.EQUAL,
            key=KEY,
            mod_revision=record.mod_revision if record is not None else 0,
        )
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=KEY, value=str(value + 1).encode()))
        if (await client.txn([unchanged], [put], timeout_s=8.0)).succeeded:
            self.acknowledged += 1
            self.floor = max(self.floor, value + 1)


async def freeze(member: MemberProcess, counting: Counting, chance: random.Random) -> None:
    """Stop a member's clock until others have gone on without it, or for an instant only."""
    member.pause()
    goal = counting.acknowledged + chance.choice([0, 1, 50])
    try:
        await eventually(lambda: counting.acknowledged >= goal, what="counting goes on")
    finally:
        member.resume()


async def strike(trio: ClusterProcesses, counting: Counting, chance: random.Random) -> None:
    leader = await asyncio.to_thread(trio.leader)
    victim = chance.choice([leader, leader, *trio])
    kind = chance.choice(["kill", "freeze", "stop", "kill all"])
    print(f"{kind} {victim.name} (leader: {leader.name}) after {counting.acknowledged}")
    if kind == "freeze":
        await freeze(victim, counting, chance)
        return
    if kind == "stop":
        await asyncio.to_thread(victim.wait_listening)
        assert await asyncio.to_thread(victim.terminate) == 0
    for member in trio if kind == "kill all" else [victim]:
        member.kill()
    if kind != "kill all" and chance.random() < 0.5:
        goal = counting.acknowledged + 20
        await eventually(lambda: counting.acknowledged >= goal, what="counting goes on with two members")
    for member in trio:
        if not member.is_running:
            member.start()


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_counter_is_exact_and_never_read_old_whatever_happens_to_members(
    trio: ClusterProcesses,
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    counting = Counting()
    endpoints = trio.endpoints
    clients = [Client([*endpoints[n % 3 :], *endpoints[: n % 3]]) for n in range(CLIENTS)]
    tasks = [asyncio.create_task(counting.run(client)) for client in clients]
    try:
        for _ in range(FAULTS):
            goal = counting.acknowledged + chance.choice([1, 10, 50])
            await eventually(
                lambda goal=goal: counting.acknowledged >= goal or any(task.done() for task in tasks),
                what="counting goes on",
            )
            if any(task.done() for task in tasks):
                break
            await strike(trio, counting, chance)
        await asyncio.to_thread(trio.start)
    finally:
        counting.is_done = True
        await asyncio.gather(*tasks)
        record = await clients[0].get(KEY, timeout_s=20.0)
        for client in clients:
            await client.close()
    assert record is not None
    print(f"{counting.acknowledged} acknowledged, {counting.unclear} unclear, counter at {record.value!r}")
    assert counting.acknowledged <= int(record.value) <= counting.acknowledged + counting.unclear
    assert record.version == int(record.value)
    await equal_hashes(trio)
