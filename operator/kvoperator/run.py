"""The operator's process: wait for the Lease, work while it is held, end when it is lost."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Coroutine
from typing import Any

import kopf

from kvoperator import handlers, http
from kvoperator.clients.config import load_config
from kvoperator.clients.kube import CLUSTERS, SNAPSHOTS, KubeClient
from kvoperator.connect import MemberConnector
from kvoperator.errors import KubeError
from kvoperator.events import EventRecorder
from kvoperator.leader import Leadership
from kvoperator.metrics import Metrics
from kvoperator.reconcile import ClusterReconciler
from kvoperator.runtime import Runtime
from kvoperator.settings import Settings
from kvoperator.snapshots import SnapshotReconciler

__all__ = ["run"]

logger = logging.getLogger(__name__)

EXIT_LOST = 1


def _exit_now(reason: str) -> None:
    """End without another request: what is under way must not be finished by who no longer leads."""
    logger.critical("stopping at once", extra={"reason": reason})
    logging.shutdown()
    os._exit(EXIT_LOST)


async def run(settings: Settings) -> int:
    """Run until stopped; returns the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    kube = KubeClient(load_config())
    connect = MemberConnector(kube)
    metrics = Metrics()
    leadership = Leadership(
        kube,
        namespace=settings.lease_namespace,
        name=settings.lease_name,
        identity=settings.identity,
    )
    events = EventRecorder(kube, settings.identity)
    runtime = Runtime(
        clusters=ClusterReconciler(
            kube=kube,
            connect=connect,
            events=events,
            guard=leadership,
            default_images=settings.default_images,
            metrics=metrics,
        ),
        snapshots=SnapshotReconciler(
            kube=kube,
            events=events,
            guard=leadership,
            agent_image=settings.default_images.agent,
            metrics=metrics,
        ),
        metrics=metrics,
        concurrency=settings.concurrency,
        on_lost=_exit_now,
    )
    is_serving = False
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(connect.close)
        stack.push_async_callback(kube.close)
        site = await http.serve(
            settings.http_port,
            metrics.registry,
            is_alive=lambda: not runtime.is_stuck,
            # A standby is ready: it can take over at any moment.
            is_ready=lambda: is_serving,
        )
        stack.push_async_callback(site.cleanup)
        if not await _until_stopped(_wait_for_types(kube), stop):
            return 0
        is_serving = True
        if not await _until_stopped(leadership.acquire(), stop):
            return 0
        metrics.is_leader.set(1)
        # kopf cancels every task begun after it when it ends; the Lease's own must outlive it.
        keeping = asyncio.create_task(leadership.renew_until_lost())
        keeping.add_done_callback(lambda task: None if task.cancelled() else _exit_now("lease lost"))
        stack.push_async_callback(leadership.release)
        stack.callback(keeping.cancel)
        await _work(settings, runtime, stop)
    return 0


async def _work(settings: Settings, runtime: Runtime, stop: asyncio.Event) -> None:
    """kopf's loop; returns when ``stop`` is set.  An error that ends it ends the process."""
    await kopf.operator(
        registry=handlers.make_registry(runtime),
        settings=kopf.OperatorSettings(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
        # By default kopf makes one of the user's name, which an arbitrary uid does not have.
        identity=settings.identity,  # type: ignore[arg-type]  # a NewType of str that kopf keeps to itself
    )


async def _wait_for_types(kube: KubeClient) -> None:
    """The chart installs the operator and the CRDs together; either may be there first."""
    told = False
    while True:
        try:
            if await kube.is_served(CLUSTERS) and await kube.is_served(SNAPSHOTS):
                return
            if not told:
                logger.warning("waiting for the CRDs to be served")
                told = True
        except KubeError as error:
            logger.warning("API server not reached", extra={"error": str(error)})
        await asyncio.sleep(2.0)


async def _until_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Run ``work`` to its end; False when the process was told to stop before."""
    task = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task in done:
        await task
        return True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return False
