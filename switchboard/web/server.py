"""The HTTP server around the API: ours to stop, quiet, and trusting forwarded headers from named proxies only."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from switchboard.web.settings import WebSettings

LAST_WORDS_S = 5  # for answers under way when the server closes


class Server(uvicorn.Server):
    """Leaves signals to the composition root, and ends event streams before it waits for connections."""

    def __init__(
        self, api: FastAPI, settings: WebSettings, *, cert: Path | None = None, key: Path | None = None
    ) -> None:
        self._api = api
        super().__init__(
            uvicorn.Config(
                api,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                http="httptools",
                ws="none",
                proxy_headers=settings.public_url is not None,
                forwarded_allow_ips=list(settings.trusted_proxies),
                timeout_graceful_shutdown=LAST_WORDS_S,
                timeout_keep_alive=65,
                ssl_certfile=cert,
                ssl_keyfile=key,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._api.state.closing.set()
        await super().shutdown(sockets)
