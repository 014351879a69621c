"""PrefectClient: calls Prefect's REST API.

Prefect's own client would do, but importing it takes a second, and its calls wait for minutes.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import httpx
from pydantic import SecretStr

from finetune_core.exceptions import FineTuneError
from finetune_service.exceptions import UnavailableError

SECONDS = 10.0
TRIES = 4  # Prefect answers 503 when its database is busy
PAUSE_SECONDS = 0.1
AWAY_SECONDS = 1.0  # in which others need not find out again that Prefect is away

# A request that met these has done nothing at the server.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.InvalidURL)


class PrefectUnavailableError(UnavailableError):
    """Prefect does not answer.

    Args:
        message: What was wrong.
        sent: Whether Prefect may nevertheless have done what was asked.
    """

    def __init__(self, message: str, *, hint: str | None = None, sent: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class PrefectRefusedError(FineTuneError):
    """Prefect does not do what is asked.

    Args:
        message: What it answered.
        status: The HTTP status.
    """

    def __init__(self, message: str, *, hint: str | None = None, status: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.status = status


PREFECT_ERRORS = (PrefectUnavailableError, PrefectRefusedError)


class PrefectClient:
    """Prefect's API; threads may share it.

    Args:
        url: Its address; without one, Prefect is always away.
        auth: What it asks its clients for, as `user:password`.
        direct: Whether no proxy stands between, whatever the environment says.
    """

    def __init__(
        self, url: str | None, auth: SecretStr | None = None, *, direct: bool = False
    ) -> None:
        user, _, password = (auth.get_secret_value() if auth else "").partition(":")
        self._url = url
        self._client = httpx.Client(
            base_url=url or "http://prefect.invalid",
            auth=(user, password) if user else None,
            timeout=httpx.Timeout(SECONDS, connect=2.0),
            limits=httpx.Limits(max_connections=20),
            trust_env=not direct,
        )
        self._away_until = 0.0
        self._token: dict[str, str] | None = None
        self._locked = threading.Lock()

    def get(self, path: str) -> Any:
        """Reads something."""
        return self._send("GET", path)

    def post(self, path: str, **body: Any) -> Any:
        """Asks for something, or changes it.

        Raises:
            PrefectUnavailableError: Prefect does not answer.
            PrefectRefusedError: It does not do that.
        """
        return self._send("POST", path, body)

    def patch(self, path: str, **body: Any) -> Any:
        """Changes something; raises as `post` does."""
        return self._send("PATCH", path, body)

    def put(self, path: str, **body: Any) -> Any:
        """Puts something in the place of what is there; raises as `post` does."""
        return self._send("PUT", path, body)

    def close(self) -> None:
        """Gives its connections back."""
        self._client.close()

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        if not self._url:
            raise PrefectUnavailableError("There is no Prefect server: PREFECT_API_URL is not set.")
        if time.monotonic() < self._away_until:
            raise PrefectUnavailableError("Prefect does not answer.")
        answer: httpx.Response | None = None
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2**attempt)
            try:
                headers = self._csrf(new=answer is not None and answer.status_code == 403)
                answer = self._client.request(method, path, json=body, headers=headers)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                raise PrefectUnavailableError(
                    f"Prefect does not answer ({type(error).__name__}).",
                    sent=not isinstance(error, NOT_SENT),
                ) from None
            if answer.status_code not in (403, 503):
                break
        assert answer is not None  # noqa: S101 - there was an attempt
        if answer.status_code >= 500:
            raise PrefectUnavailableError(f"Prefect answers {answer.status_code}.", sent=True)
        if answer.is_error:
            said = f"Prefect answers {answer.status_code} to {path}: {answer.text[:500]}"
            raise PrefectRefusedError(said, status=answer.status_code)
        return answer.json() if answer.content else None

    def _csrf(self, *, new: bool) -> dict[str, str]:
        """The headers of a token, where the server wants one; it is good for an hour."""
        with self._locked:
            if self._token is None or new:
                client = str(uuid.uuid4())
                answer = self._client.get("/csrf-token", params={"client": client})
                self._token = {}
                if answer.is_success:
                    self._token = {
                        "Prefect-Csrf-Token": answer.json()["token"],
                        "Prefect-Csrf-Client": client,
                    }
            return self._token
