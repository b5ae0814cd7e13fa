"""What kopf is started with."""

import asyncio
import getpass
from typing import Any

import kopf
import pytest
from kopf._core.reactor import running
from kvoperator import run
from kvoperator.settings import settings_from

ENVIRONMENT = {"KVOPERATOR_NODE_IMAGE": "n", "KVOPERATOR_AGENT_IMAGE": "a", "POD_NAME": "kvoperator-1"}


async def test_a_user_without_a_name_can_run_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenShift gives each namespace uids of its own, of which /etc/passwd knows nothing."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1000680000")

    async def operator(*, stop_flag: asyncio.Event, **options: Any) -> None:
        # As kopf.operator, without the run itself.
        tasks = await running.spawn_tasks(stop_flag=stop_flag, **options)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        started.append(options["identity"])

    started: list[object] = []
    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr(kopf, "operator", operator)
    monkeypatch.setattr(run.handlers, "make_registry", lambda runtime: kopf.OperatorRegistry())
    await run._work(settings_from(ENVIRONMENT), None, asyncio.Event())  # type: ignore[arg-type]
    assert started == ["kvoperator-1"]
