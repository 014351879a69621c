"""Asking: requests to a server that speaks OpenAI's protocol, in time, again, and its errors.

The official client makes one try a request here, and this tries again. The client alone would do
it for up to 8 s, and gives up at a Retry-After of more than two minutes, and what it tries again
it makes twice, where the answer was lost: nobody can look in between.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TypeVar

import openai
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from openai import BaseModel

from finetune_core.exceptions import FineTuneError, InputError
from finetune_service.exceptions import (
    ConflictError,
    InvalidValueError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from finetune_service.jobs.providers.settings import ProviderSettings
from finetune_service.jobs.providers.storage import check_address
from finetune_service.sdk.exceptions import ApiError, ApiKeyError

KEY = "OPENAI_API_KEY"
TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds
LONGEST_WAIT = 3600.0  # a server that asks for more is not waited for
NO_QUOTA = "insufficient_quota"  # OpenAI's 429 that no waiting mends
HIDDEN = "…"

ERRORS: dict[int, type[FineTuneError]] = {
    403: InputError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    429: UnavailableError,
}

T = TypeVar("T")

log = logging.getLogger(__name__)


class Asking(AbstractContextManager["Asking"]):
    """The connection to one server, with the key from the environment.

    Args:
        base_url: Where it is; without it, where the official client looks by itself.
        sleep: Waits.

    Raises:
        ApiKeyError: There is no key, or none that can be sent.
        InvalidValueError: The address is none.
    """

    def __init__(
        self, base_url: str | None, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.sleep = sleep
        self._key = _key()
        self._rate = ProviderSettings().rate()
        if address := base_url or os.environ.get("OPENAI_BASE_URL"):
            check_address(address)
        self._api = openai.OpenAI(
            api_key=self._key,
            base_url=base_url,
            max_retries=0,
            timeout=openai.Timeout(60, connect=5),
        )
        self.url = str(self._api.base_url).rstrip("/")

    def __call__(
        self,
        call: Callable[[openai.OpenAI], T],
        kind: type[T],
        *,
        known: Callable[[], T | None] | None = None,
    ) -> T:
        """Makes a request, and again while that may help.

        Args:
            call: The request.
            kind: What it answers.
            known: Finds what the request would make, where an earlier try has made it: whose answer
                was lost, perhaps with the process that waited for it. Is asked before each try.

        Raises:
            FineTuneError: What the server answered, or that it does not.
        """
        for tries in range(1, TRIES + 1):
            if known is not None and (found := known()) is not None:
                return found
            self._wait_for_turn()
            try:
                answer: T | None = call(self._api)
            except openai.APIError as error:
                wait = _wait(error, tries)
                if wait is None:
                    raise self._error(error) from None
                log.info("%s: %s; asked again in %.1f s", self.url, _brief(error), wait)
                self.sleep(wait)
                continue
            except (AttributeError, ValueError):  # of the client's, over what is no such answer
                answer = None
            if not isinstance(answer, kind) or not _is_whole(answer):
                raise ApiError(f"{self.url} answers, but not as OpenAI's API does", hint=_HINT)
            return answer
        raise AssertionError("unreachable")

    def clean(self, text: str) -> str:
        """A text of the server's without the key, which it may have repeated."""
        return text.replace(self._key, HIDDEN)

    def close(self) -> None:
        """Closes the connections."""
        self._api.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for_turn(self) -> None:
        """Keeps to the limit of requests, which all threads of this process share."""
        limiter = _limiter()
        while not limiter.hit(self._rate, self.url):
            free = limiter.get_window_stats(self._rate, self.url).reset_time - time.time()
            self.sleep(max(0.01, free))

    def _error(self, error: openai.APIError) -> FineTuneError:
        """The error of ours that an answer stands for."""
        if isinstance(error, openai.APIConnectionError):
            late = isinstance(error, openai.APITimeoutError)
            problem = "does not answer in time" if late else "cannot be reached"
            return UnavailableError(f"{self.url} {problem}", hint=_HINT)
        if not isinstance(error, openai.APIStatusError):
            return ApiError(f"{self.url} answers, but not as OpenAI's API does", hint=_HINT)
        status = error.status_code
        if status == 401:
            # What the server says may hold a part of the key.
            problem = f"{self.url} does not know the key that {KEY} holds"
            return ApiKeyError(problem, hint=f"Set {KEY} to a live key of that server.")
        message = self.clean(_said(error))
        if status in (400, 422):
            return InvalidValueError(message, param=error.param)
        if error.code == NO_QUOTA:
            return InputError(f"{self.url}: {message}", hint="Its owner has to raise the quota.")
        kind = ERRORS.get(status, UnavailableError if status >= 500 else ApiError)
        hint = f"The request's id: {error.request_id}" if error.request_id else None
        if kind is UnavailableError and (after := _retry_after(error)) is not None:
            hint = f"It asks to be left alone for {after:,.0f} s."
        return kind(f"{self.url}: {message}", hint=hint)


_HINT = "Is the base_url right, and the server up?"


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ApiKeyError(f"there is no key: {KEY} is not set", hint=f"Set {KEY}.")
    if not re.fullmatch(r"[!-~]+", key):
        # It is not shown. The HTTP library would show it, as it cannot send it.
        raise ApiKeyError(f"{KEY} holds characters that no key has", hint=f"Set {KEY} anew.")
    return key


def _is_whole(answer: object) -> bool:
    """Whether an object has what the client does not check to be there."""
    asked = ("id", "status") if isinstance(answer, BaseModel) else ()
    return all(getattr(answer, name, None) for name in asked)


@cache
def _limiter() -> MovingWindowRateLimiter:
    return MovingWindowRateLimiter(MemoryStorage())


def _wait(error: openai.APIError, tries: int) -> float | None:
    """The seconds until it is worth asking again; None where it is not."""
    after = None
    if isinstance(error, openai.APIStatusError):
        final = error.response.headers.get("x-should-retry") == "false" or error.code == NO_QUOTA
        if final or not (error.status_code in (408, 429) or error.status_code >= 500):
            return None
        after = _retry_after(error)
    elif not isinstance(error, openai.APIConnectionError):
        return None
    if tries == TRIES or (after is not None and after > LONGEST_WAIT):
        return None
    drawn = random.random()  # noqa: S311 - so that many who were refused do not come back at once
    if after is not None:
        return after * (1 + drawn / 10)
    return min(FIRST_PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) * (1 - drawn / 4)


def _retry_after(error: openai.APIStatusError) -> float | None:
    """The seconds that a server asks to wait, which it says as a number or as a date."""
    said = error.response.headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _brief(error: openai.APIError) -> str:
    status = getattr(error, "status_code", None)
    return f"answers {status}" if status else "is not reached"


def _said(error: openai.APIStatusError) -> str:
    """What a server says of an error; the client's own words hold the whole body."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message) if message else f"answers {error.status_code}"
