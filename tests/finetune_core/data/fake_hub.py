"""A dataset hub on this machine: the few routes of the hub's API that reading a dataset takes."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ROUTE = re.compile(
    r"(?:/api)?/datasets/(?P<name>[^/]+/[^/]+)"
    r"(?:/(?P<verb>revision|tree|resolve)/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?"
)


class Refusal(NamedTuple):
    """How the hub says no: the status, and the code by which clients know why."""

    status: int
    code: str


NO_REPO = Refusal(401, "RepoNotFound")  # the hub does not tell strangers what is private
NO_REVISION = Refusal(404, "RevisionNotFound")
NO_ENTRY = Refusal(404, "EntryNotFound")
GATED_TO_STRANGERS = Refusal(401, "GatedRepo")
GATED_TO_MEMBERS = Refusal(403, "GatedRepo")


class FakeHub:
    """What the hub holds, and what was asked of it.

    Attributes:
        repos: By id, the branches and tags of a dataset, each with its files by path; or a refusal.
        broken_paths: Files that the hub announces, and hangs up instead of sending.
        tokens: The `Authorization` headers that came.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]] | Refusal] = {}
        self.broken_paths: set[str] = set()
        self.tokens: set[str | None] = set()

    def add(self, name: str, files: dict[str, bytes | str], revision: str = "main") -> str:
        """Puts files under a revision, and gives the commit that it then names."""
        content = {
            path: text.encode() if isinstance(text, str) else text for path, text in files.items()
        }
        repo = self.repos.setdefault(name, {})
        assert isinstance(repo, dict)
        repo[revision] = content
        return commit_of(content)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Answers on a free port until the block ends."""

        class Handler(_Handler):
            hub = self

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def commit_of(files: dict[str, bytes]) -> str:
    """The commit's hash, which the content alone decides."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sorted(files):
        digest.update(path.encode() + b"\0" + files[path] + b"\0")
    return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self.hub.tokens.add(self.headers.get("Authorization"))
        found = ROUTE.fullmatch(unquote(urlsplit(self.path).path))
        if found is None:
            return self._refuse(NO_ENTRY)
        repo = self.hub.repos.get(found["name"], NO_REPO)
        if isinstance(repo, Refusal):
            return self._refuse(repo)
        revision = found["revision"] or "main"
        known = {commit_of(files): files for files in repo.values()} | repo
        if revision not in known:
            return self._refuse(NO_REVISION)
        files = known[revision]
        if found["verb"] == "resolve":
            return self._file(files, found["path"])
        if found["verb"] == "tree":
            return self._tree(files, found["path"] or "")
        siblings = [{"rfilename": path} for path in sorted(files)]
        return self._json({"id": found["name"], "sha": commit_of(files), "siblings": siblings})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _file(self, files: dict[str, bytes], path: str) -> None:
        headers = {"X-Repo-Commit": commit_of(files)}
        if path not in files:
            return self._refuse(NO_ENTRY, headers)
        headers["ETag"] = f'"{_oid(files[path])}"'
        if path in self.hub.broken_paths:
            headers["Content-Length"] = str(len(files[path]))
            self.close_connection = True
            return self._send(200, b"", headers)
        return self._send(200, files[path], headers)

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        start = f"{folder}/" if folder else ""
        inside = [path.removeprefix(start) for path in files if path.startswith(start)]
        if not inside:
            return self._refuse(NO_ENTRY)
        entries = {}
        for path in inside:
            name, _, below = path.partition("/")
            content = b"" if below else files[start + name]
            kind = "directory" if below else "file"
            place = {"type": kind, "path": start + name}
            entries[name] = {**place, "size": len(content), "oid": _oid(content)}
        return self._json([entries[name] for name in sorted(entries)])

    def _refuse(self, refusal: Refusal, headers: dict[str, str] | None = None) -> None:
        self._send(refusal.status, b"", {"X-Error-Code": refusal.code} | (headers or {}))

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        """The test's output is no place for requests."""


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
