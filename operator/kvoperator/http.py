"""The operator's own HTTP side: /metrics, and whether it is alive and ready."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

__all__ = ["serve"]


async def serve(
    port: int, registry: CollectorRegistry, is_alive: Callable[[], bool], is_ready: Callable[[], bool]
) -> web.AppRunner:
    """Listen until the returned runner is cleaned up."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

    def probe(holds: Callable[[], bool]) -> Callable[[web.Request], object]:
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text="ok\n") if holds() else web.Response(status=503, text="not ok\n")

        return answer

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", metrics),
            web.get("/healthz", probe(is_alive)),  # type: ignore[arg-type]
            web.get("/readyz", probe(is_ready)),  # type: ignore[arg-type]
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()
    return runner
