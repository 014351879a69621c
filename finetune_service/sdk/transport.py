"""Transport: requests to the API, tried again where that may help, and its errors as ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from finetune_core import __version__
from finetune_core.exceptions import FineTuneError
from finetune_service.exceptions import (
    ConflictError,
    InvalidValueError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from finetune_service.sdk.exceptions import ApiError, ApiKeyError

TRIES = 5
AGAIN = (429, 503)
LONGEST_WAIT = 120.0  # the API is not expected back by somebody who waits
TIMEOUT = httpx.Timeout(60, connect=5)
PAGE = 100

ERRORS: dict[int, type[FineTuneError]] = {
    401: ApiKeyError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    429: UnavailableError,
    503: UnavailableError,
}


class Transport:
    """The connection to an API; threads may share it.

    Args:
        url: Where the API is, with /v1 or without.
        key: The organisation's key. It is sent to the API, and shown nowhere.
        transport: How the requests travel, where not over the network.
        sleep: Waits between two tries.
    """

    def __init__(
        self,
        url: str,
        key: SecretStr | None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if key is None or not key.get_secret_value():
            raise ApiKeyError("there is no API key", hint="Set FINETUNE_API_KEY.")
        self.url = f"{url.rstrip('/').removesuffix('/v1')}/v1"
        self._sleep = sleep
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={
                    "Authorization": f"Bearer {key.get_secret_value()}",
                    "User-Agent": f"finetune-service/{__version__}",
                },
                timeout=TIMEOUT,
                transport=transport,
            )
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise ApiError(f"{url!r} with this key cannot be asked", hint=_HINT) from None

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Asks the API for an object, as `send` does."""
        return _body(self.send(method, path, **options))

    def text(self, path: str, **params: Any) -> str:
        """Asks the API for a text, as `send` does."""
        return self.send("GET", path, params=params).text

    def send(
        self,
        method: str,
        path: str,
        *,
        before_each_try: Callable[[], object] = lambda: None,
        **options: Any,
    ) -> httpx.Response:
        """Asks the API, and again where it says that it may be asked again.

        Args:
            method: The HTTP method.
            path: Behind /v1.
            before_each_try: Makes ready what is sent, as a file that has been read already.
            options: As httpx takes them.

        Raises:
            FineTuneError: What the API answered, or that it does not.
        """
        for left in reversed(range(TRIES)):
            before_each_try()
            try:
                answer = self._http.request(method, path, **options)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if left and isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
                    self._sleep(_pause(left))
                    continue
                problem = f"the API at {self.url} does not answer: {error or type(error).__name__}"
                raise UnavailableError(problem, hint=_HINT) from None
            if answer.is_success:
                return answer
            wait = _wait(answer, left)
            if not left or wait is None:
                raise _error(answer)
            self._sleep(wait)
        raise AssertionError("unreachable")

    def save(self, path: str, file: Path) -> None:
        """Writes what the API answers into a file, block by block; raises as `send`.

        Args:
            path: Behind /v1.
            file: Is made or written over.
        """
        try:
            with self._http.stream("GET", path) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _error(answer)
                with file.open("wb") as target:
                    for block in answer.iter_bytes():
                        target.write(block)
        except httpx.TransportError as error:
            problem = f"the API at {self.url} does not answer: {error or type(error).__name__}"
            raise UnavailableError(problem, hint=_HINT) from None

    def pages(self, path: str, limit: int | None = None, **params: Any) -> Iterator[dict[str, Any]]:
        """The items of a list, page by page, read only as far as they are taken.

        Args:
            path: Behind /v1.
            limit: How many are wanted at most.
            params: Which ones.
        """
        given = {name: value for name, value in params.items() if value is not None}
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self.request("GET", path, params={**given, "limit": size})
            yield from page["data"]
            if not page["has_more"]:
                return
            left = left - len(page["data"]) if left is not None else None
            given["after"] = page["last_id"]

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


_HINT = "Is FINETUNE_API_URL right, and the API up? Without it, jobs run on this machine."


def part(name: str) -> str:
    """A name as one part of a path, wherever it has slashes."""
    return quote(name, safe="")


def _pause(left: int) -> float:
    return 0.25 * 2.0 ** (TRIES - 1 - left)


def _wait(answer: httpx.Response, left: int) -> float | None:
    """The seconds until it is worth asking again; None where it is not."""
    if answer.status_code not in AGAIN:
        return None
    try:
        said = float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return _pause(left)
    return max(0.0, said) if said <= LONGEST_WAIT else None


def _body(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        problem = f"{answer.url} answers, but not as the fine-tuning API does"
        raise ApiError(problem, hint=_HINT)
    return body


def _error(answer: httpx.Response) -> FineTuneError:
    """The error that an answer stands for."""
    status = answer.status_code
    try:
        fields = answer.json()["error"]
        message, param = str(fields["message"]), fields.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(f"{answer.url} answers {status}", hint=_HINT)
    request_id = answer.headers.get("x-request-id")
    if status == 400:
        return InvalidValueError(message, param=param)
    if status == 401:
        return ApiKeyError(message, hint="Set FINETUNE_API_KEY to a live key.")
    hint = f"The request's id: {request_id}" if status >= 500 and request_id else None
    return ERRORS.get(status, ApiError)(message, hint=hint)
