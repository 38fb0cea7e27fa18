"""One outgoing webhook: tells the outside world that something waits. It says no command and carries no power: the link opens a page.

A question is marked once it was told. What a server that died, or a receiver that was away, left untold is queued again by a
timer, so a receiver hears of each question at least once while it is open, and twice only around such a death.
"""

import asyncio
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

import httpx
import structlog
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from switchboard.domain.approval import Approval
from switchboard.domain.errors import Invalid
from switchboard.services.telling import Telling

TIMEOUT_S = 10.0
ATTEMPTS = 6
AT_ONCE = 8  # messages under way: one that goes nowhere does not hold the others up
QUEUED = 1000  # more than so many waiting messages are dropped and counted; the timer brings them back

log = structlog.get_logger("notify")


class TryAgain(Exception):
    """The other side is away or busy."""


class Refused(Exception):
    """The other side said no, and trying again does not help."""


class Webhook:
    """A Notifier. `waiting` only queues; `run` sends, as a task of the composition root."""

    def __init__(self, url: str, *, base_url: str, allow_plain: bool = False, patience_s: float = 60.0) -> None:
        self._url = checked(url, allow_plain=allow_plain)
        self._base_url = base_url.rstrip("/")
        self._patience_s = patience_s
        self._queue: asyncio.Queue[str] = asyncio.Queue(QUEUED)
        self._held: set[str] = set()  # queued or under way
        self.sent = self.failed = self.dropped = 0

    async def waiting(self, approval: Approval) -> None:
        if approval.id in self._held:
            return
        try:
            self._queue.put_nowait(approval.id)
        except asyncio.QueueFull:
            self.dropped += 1
            log.warning("webhook is behind: a message was dropped", approval=approval.id, dropped=self.dropped)
        else:
            self._held.add(approval.id)

    async def run(self, telling: Telling) -> None:
        """Send what is queued and still waits, a few at once, for ever."""
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(AT_ONCE):
                tasks.create_task(self._work(client, telling), name=f"webhook {number}")

    async def _work(self, client: httpx.AsyncClient, telling: Telling) -> None:
        while True:
            id = await self._queue.get()
            try:
                await self._tell(client, telling, id)
            except Exception as error:  # a webhook's trouble of any kind is a line in the log and nothing more
                self.failed += 1
                log.warning("webhook failed", approval=id, error=str(error)[:200])
            finally:
                self._held.discard(id)

    async def _tell(self, client: httpx.AsyncClient, telling: Telling, id: str) -> None:
        tries = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=self._patience_s),
            retry=retry_if_exception_type((TryAgain, httpx.TransportError)),
        )
        try:
            async for attempt in tries:
                with attempt:
                    # Looked at each time: somebody may have decided, or another server have told, meanwhile.
                    if (approval := telling.untold(id)) is None:
                        return
                    await self._post(client, approval)
        except RetryError as error:
            raise error.last_attempt.exception() or error from None
        except Refused:
            await telling.told(id)
            raise
        await telling.told(id)
        self.sent += 1

    async def _post(self, client: httpx.AsyncClient, approval: Approval) -> None:
        response = await client.post(self._url, json=message(approval, self._base_url))
        if response.status_code in {408, 425, 429} or response.status_code >= 500:
            raise TryAgain(f"it answered {response.status_code}")
        if response.status_code >= 300:
            raise Refused(f"it answered {response.status_code}, which trying again does not help")


def message(approval: Approval, base_url: str) -> dict[str, str]:
    what = "".join(c for c in approval.tool or approval.kind if c.isprintable())[:80]
    return {
        "approval": approval.id,
        "run": approval.run,
        "repo": approval.repo,
        "title": f"{what} waits for an answer",  # not the request's own title, which may quote a command
        "link": f"{base_url}/a/{quote(approval.id, safe='')}",
    }


def checked(url: str, *, allow_plain: bool) -> str:
    """Return *url*. Raises Invalid for what is not https, unless it is loopback or *allow_plain* says so.

    Only its host is named: the rest of such an address is often a secret, and what is said here is written into a log.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise Invalid("webhook", "the webhook is not an address that starts with https://")
    if parts.scheme == "http" and not allow_plain and not _is_loopback(parts.hostname):
        raise Invalid("webhook", f"the webhook at {parts.hostname[:100]} is not encrypted: use https://")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
