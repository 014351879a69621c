"""The one shape of an error: `{"error": {message, type, param, code}}`, whatever went wrong."""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from finetune_core.exceptions import (
    ConfigError,
    FineTuneError,
    HubUnavailableError,
    InputError,
    JobNotFoundError,
    UnverifiedError,
    VersionNotFoundError,
)
from finetune_service.exceptions import (
    ConflictError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)

FAULTS, LONGEST = 20, 300  # that an answer tells of, and characters of a name in it
RETRY_SECONDS = 5  # after which a server that was away may be back; the client waits up to 120

STATUSES: dict[type[FineTuneError], int] = {
    NotFoundError: 404,
    JobNotFoundError: 404,
    VersionNotFoundError: 404,
    ConflictError: 409,
    UnverifiedError: 409,
    TooLargeError: 413,
    InputError: 400,
    HubUnavailableError: 503,
    UnavailableError: 503,
}
KINDS = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    409: ("invalid_request_error", "conflict"),
    413: ("invalid_request_error", "too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "unavailable"),
}
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    # The client tries a 409 again by itself, but the state stays as it is.
    409: {"x-should-retry": "false"},
    # What is left of the request is not read, so the connection is of no more use.
    413: {"Connection": "close"},
    503: {"Retry-After": str(RETRY_SECONDS)},
}

TEXT_HEADER = {"required": True, "schema": {"type": "string"}}
WAIT_HEADER = {"required": True, "schema": {"type": "integer", "minimum": 1}}
ID_HEADER = {"x-request-id": TEXT_HEADER}

log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's terms."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetail


def _said(description: str, **headers: Any) -> dict[str, Any]:
    return {"model": ErrorBody, "description": description, "headers": {**ID_HEADER, **headers}}


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"headers": ID_HEADER},
    "4XX": _said("The request was wrong."),
    "5XX": _said("The server failed."),
}
"""What the page says of the answers of every route: by classes, so that FastAPI adds no 422."""

KEYED: dict[int | str, dict[str, Any]] = {
    401: _said("There is no key, or a wrong one.", **{"WWW-Authenticate": TEXT_HEADER}),
    429: _said("The key has asked too often.", **{"Retry-After": WAIT_HEADER}),
    503: _said("A server that is needed is away.", **{"Retry-After": WAIT_HEADER}),
}
"""The same, of those that need a key."""


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as the client reads it.

    Args:
        status: The HTTP status; decides type, code and headers where these are not given.
        message: What was wrong, and what to do about it.
        param: The field of the request that it lies in.
        code: What a program may go by.
        headers: More headers.
    """
    kind, usual = KINDS.get(
        status, ("invalid_request_error" if status < 500 else "server_error", None)
    )
    detail = ErrorDetail(message=message, type=kind, param=param, code=code or usual)
    # Escaped to ASCII: a lone surrogate that came in must not keep the error from going out.
    body = json.dumps({"error": detail.model_dump()})
    return Response(
        body,
        status,
        headers={**HEADERS.get(status, {}), **(headers or {})},
        media_type="application/json",
    )


def response_to(error: Exception) -> Response:
    """The answer to an error that our own code raised; none tells of the inside of the server."""
    if isinstance(error, FineTuneError):
        for kind in type(error).__mro__:
            if kind in STATUSES:
                param = getattr(error, "param", None)
                if isinstance(error, ConfigError) and error.faults:
                    param = error.faults[0].path
                return error_response(STATUSES[kind], str(error), param=param)
    log.error("unexpected", exc_info=error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error_response(503, "The server has no space left.")
    return error_response(500, "The server had an error; its log says more.")


def add_handlers(app: FastAPI) -> None:
    """Gives every error of an app the one shape."""

    @app.exception_handler(FineTuneError)
    async def _fine_tune(_: Request, error: FineTuneError) -> Response:
        return response_to(error)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        message = str(error.detail)
        if error.status_code == 404 and message == "Not Found":
            message = f"Unknown URL: {request.method} {request.url.path}"
        headers = dict(error.headers or {})
        if error.status_code == 405:
            message = f"{request.method} is not allowed at {request.url.path}"
            # Starlette names the methods of the first route alone that has the path.
            headers["Allow"] = _allowed(request) or headers["Allow"]
        return error_response(error.status_code, message, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        told = error.errors()[:FAULTS]
        faults = [(_field(fault["loc"]), fault["msg"]) for fault in told]
        message = "; ".join(
            f"{field}: {problem}" if field else problem for field, problem in faults
        )
        return error_response(400, message, param=faults[0][0] or None, code="invalid_value")


def _allowed(request: Request) -> str:
    """The methods that the page of the API names for a path."""
    path = "/v1/" + request.url.path.removeprefix("/v1").lstrip("/")
    methods = {
        method.upper()
        for template, operations in request.app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
        for method in operations
    }
    return ", ".join(sorted(methods))


def _field(location: tuple[Any, ...]) -> str:
    """A field's path: what the fault lies in, without the part of the request it came with."""
    return ".".join(str(part)[:LONGEST] for part in location[1:])
