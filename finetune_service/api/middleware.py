"""What every request goes through before its route: an id, a key, a rate, a size."""

from __future__ import annotations

import base64
import logging
import re
import time
import uuid
from collections.abc import Callable

from limits import RateLimitItem
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetune_service.api.errors import error_response, response_to
from finetune_service.organizations import Organizations

REQUEST_ID = "x-request-id"
PUBLIC = re.compile(r"(/v1)?/health|/docs|/openapi\.json")
# Pages, which a browser asks for: it asks its user for a password, which is the key.
BROWSED = re.compile(r"/mlflow(/|$)")
BASIC = 'Basic realm="API key as password", charset="UTF-8"'

log = logging.getLogger(__name__)


class RequestId:
    """Gives every answer an id, and one to what nobody has caught."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("request %s: the client has gone", request_id)
        except Exception as error:
            if started:  # the answer is cut, by which the client sees that it is not whole
                log.exception("request %s", request_id)
                raise
            log.error("request %s", request_id)
            await response_to(error)(scope, receive, send_with_id)


class Authentication:
    """Lets only those in who show a key, and each key only so often.

    Stands before the routes, so that none can be forgotten and no work is done for a stranger.
    `scope["state"]` then says whose key it is.
    """

    def __init__(
        self,
        app: ASGIApp,
        organizations: Organizations,
        limiter: SlidingWindowCounterRateLimiter,
        rate: RateLimitItem,
    ) -> None:
        self.app = app
        self.organizations = organizations
        self.limiter = limiter
        self.rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 401 or 429."""
        if scope["type"] != "http" or PUBLIC.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        by_browser = bool(BROWSED.match(scope["path"]))
        asked = {"WWW-Authenticate": BASIC} if by_browser else None
        secret = _secret(Headers(scope=scope).get("authorization", ""), by_browser)
        if not secret:
            message = "No API key was given. Send it as a header: Authorization: Bearer sk-ft-…"
            await error_response(401, message, headers=asked)(scope, receive, send)
            return
        key = self.organizations.authenticate(secret)
        if key is None:
            message = "Incorrect API key provided."
            await error_response(401, message, headers=asked)(scope, receive, send)
            return
        if not await self.limiter.hit(self.rate, key.id):
            stats = await self.limiter.get_window_stats(self.rate, key.id)
            wait = max(1, round(stats.reset_time - time.time()))
            message = f"Rate limit reached for this key: {self.rate}. Try again in {wait} s."
            headers = {"Retry-After": str(wait)}
            await error_response(429, message, headers=headers)(scope, receive, send)
            return
        scope.setdefault("state", {}).update(organization=key.organization, key_id=key.id)
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses a request as soon as it is known to be too large; what it says of itself may lie."""

    def __init__(self, app: ASGIApp, limit_of: Callable[[str, str], int]) -> None:
        self.app = app
        self.limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit_of(scope["method"], scope["path"])
        message = f"The request is too large: at most {limit:,} bytes are allowed."
        said = Headers(scope=scope).get("content-length", "")
        if said.isdigit() and int(said) > limit:
            await error_response(413, message)(scope, receive, send)
            return
        received = 0

        async def receive_within() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > limit:
                raise HTTPException(413, message)
            return part

        await self.app(scope, receive_within, send)


def _secret(authorization: str, by_browser: bool) -> str:
    """The key that a request shows, if any."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and by_browser:
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            return ""
    return ""
