"""/mlflow: MLflow's UI and API for people with a key, each in the workspace of its organisation.

The stock client is told `MLFLOW_TRACKING_URI=http://…/mlflow` and `MLFLOW_TRACKING_TOKEN=sk-ft-…`;
a browser asks for the key as a password. Nothing of what a caller says about who he is or which
workspace he means reaches MLflow: both follow from the key alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from urllib.parse import unquote, urlsplit

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from finetune_service.api.services import CurrentOrganization, CurrentServices
from finetune_service.exceptions import NotFoundError, UnavailableError

PREFIX = "/mlflow"
ARTIFACTS = f"{PREFIX}/api/2.0/mlflow-artifacts/artifacts/"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

# What people use. All else is not there: users, roles and permissions, MLflow's own gateway to
# models (it can be told to call any address), webhooks (likewise), its jobs and its assistant.
_V2 = r"/(?:ajax-)?api/2\.0/mlflow"
_V3 = r"/(?:ajax-)?api/3\.0/mlflow"
_REST = r"(?:/[^/]+)*"
ALLOWED = tuple(
    (frozenset(methods.split()), re.compile(pattern))
    for methods, pattern in (
        ("GET HEAD", r"/|/version|/static-files/.+"),
        ("POST", r"/graphql"),
        ("GET HEAD", r"/get-artifact|/model-versions/get-artifact"),
        (
            "GET POST PUT PATCH DELETE",
            rf"{_V2}/(?:experiments|runs|metrics|artifacts|logged-models|registered-models"
            rf"|model-versions|traces){_REST}",
        ),
        ("GET POST", rf"{_V2}/(?:get-trace-artifact|upload-artifact|unified-traces)"),
        (
            "GET HEAD POST PUT DELETE",
            r"/(?:ajax-)?api/2\.0/mlflow-artifacts/(?:artifacts|mpu/[a-z]+|presigned)(?:/.*)?",
        ),
        ("GET POST PATCH DELETE", rf"{_V3}/(?:traces|datasets|assessments){_REST}"),
        (
            "GET",
            rf"{_V3}/(?:get-trace-artifact|server-info|ui-telemetry|scorers/list|label-schemas/list)",
        ),
    )
)
FORBIDDEN_STEPS = {"permissions", "create-promptlab-run"}

# The only headers that pass: what is not known cannot say who somebody is.
REQUEST_HEADERS = {
    "accept",
    "accept-encoding",
    "content-encoding",
    "content-length",
    "content-type",
    "if-modified-since",
    "if-none-match",
    "range",
    "user-agent",
    "x-mlflow-experiment-id",
}
RESPONSE_HEADERS = {
    "accept-ranges",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "last-modified",
    "x-content-type-options",
    "x-frame-options",
}

router = APIRouter(prefix=PREFIX, include_in_schema=False)


@router.get("")
def to_the_page() -> RedirectResponse:
    """The page's links are relative to this address with a slash behind it."""
    return RedirectResponse(f"{PREFIX}/")


@router.api_route("/{path:path}", methods=METHODS)
async def forward(
    request: Request, organization: CurrentOrganization, services: CurrentServices
) -> Response:
    """Pass a request on to MLflow as the organisation's user, in its workspace."""
    workspaces, gateway = services.workspaces, services.gateway
    path = request.scope["raw_path"].split(b"?")[0].removeprefix(PREFIX.encode())
    if not workspaces.enabled or not _is_allowed(request.method, path) or _is_foreign(request):
        raise NotFoundError(f"Unknown URL: {request.method} {request.url.path}")
    user = workspaces.known(organization)
    if user is None:
        user = await run_in_threadpool(workspaces.ensure, organization)
    passing = [each for each in request.headers.items() if each[0] in REQUEST_HEADERS]
    has_body = {"content-length", "transfer-encoding"} & set(request.headers)
    query = request.scope["query_string"]
    upstream = gateway.build_request(
        request.method,
        gateway.base_url.copy_with(raw_path=path + b"?" + query if query else path),
        headers=[*passing, *user.headers().items()],
        content=request.stream() if has_body else None,
    )
    try:
        answer = await gateway.send(upstream, stream=True)
    except httpx.HTTPError as error:
        raise UnavailableError(f"MLflow does not answer: {type(error).__name__}") from error
    if answer.status_code == 401:
        await answer.aclose()
        workspaces.forget(organization)
        raise UnavailableError("MLflow does not know the organisation yet.")
    if answer.is_success and path.endswith(b"/server-info"):
        # To its people an organisation is all of MLflow, with no workspace to choose.
        return JSONResponse(json.loads(await answer.aread()) | {"workspaces_enabled": False})
    headers = {name: each for name, each in answer.headers.items() if name in RESPONSE_HEADERS}
    return StreamingResponse(_body(answer), answer.status_code, headers)


def _is_allowed(method: str, raw: bytes) -> bool:
    """Whether a path leads where people may go, however often somebody decodes it."""
    try:
        path = unquote(raw.decode("ascii"), errors="strict")
        deepest = path
        while (decoded := unquote(deepest, errors="strict")) != deepest:
            deepest = decoded
    except UnicodeDecodeError:
        return False
    for each in (path, deepest):
        steps = each.split("/")
        if {step.partition(";")[0] for step in steps} & {".", "..", *FORBIDDEN_STEPS}:
            return False
        if "" in steps[1:-1] or "\\" in each or not each.isprintable():
            return False
        if not any(method in methods and known.fullmatch(each) for methods, known in ALLOWED):
            return False
    return True


def _is_foreign(request: Request) -> bool:
    """Whether another site's page makes a browser send this, with the key that it remembers."""
    if request.method in ("GET", "HEAD"):
        return False
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()
