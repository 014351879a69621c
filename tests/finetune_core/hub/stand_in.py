"""A hub that speaks as much of the Hugging Face hub's HTTP as an upload needs, on this machine.

Repositories are made, files go as text in the commit or as large files (git LFS), and what was
sent is kept. It can be told to refuse.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_TestTokenThatMustNotBeSeen42"
SIGNATURE = "X-Amz-Signature=KeyToTheStore"  # in the addresses that large files go to


@dataclass
class Commit:
    """One commit, as it was sent."""

    message: str
    files: dict[str, bytes]


@dataclass
class StandIn:
    """What the hub has been told.

    Attributes:
        refusals: A part of a path → the status that it is answered with.
    """

    url: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    commits: dict[str, list[Commit]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)

    def files(self, repo_id: str) -> dict[str, bytes]:
        """The files of a repository."""
        return {
            name: content
            for each in self.commits.get(repo_id, [])
            for name, content in each.files.items()
        }


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Serves while the block lasts."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (_Asked,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Asked(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = self._begin()
        if parts is not None:
            repo_id = "/".join(parts[2:4])
            known = parts[:2] == ["api", "models"] and repo_id in self.hub.repos
            self._answer(200, {"id": repo_id, "sha": "0" * 40}) if known else self._answer(404)

    def do_PUT(self) -> None:
        content = self._body()
        parts = self._begin(signed=True)
        if parts is not None:
            self.hub.large[parts[-1]] = content
            self._answer(200)

    def do_POST(self) -> None:
        content = self._body()
        parts = self._begin()
        if parts is None:
            return
        path = "/".join(parts)
        if path == "api/repos/create":
            self._create(json.loads(content))
        elif path == "api/validate-yaml":
            self._answer(200, {"warnings": [], "errors": []})
        elif "preupload" in parts:
            names = [each["path"] for each in json.loads(content)["files"]]
            modes = [
                {
                    "path": name,
                    "uploadMode": "lfs" if name.endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for name in names
            ]
            self._answer(200, {"files": modes})
        elif path.endswith("info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": self._store(each["oid"])}}}
                for each in json.loads(content)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif parts[4:5] == ["commit"]:
            self._commit("/".join(parts[2:4]), content)
        else:
            self._answer(404)

    def _create(self, asked: dict[str, Any]) -> None:
        repo_id = f"{asked['organization'] or 'me'}/{asked['name']}"
        there = repo_id in self.hub.repos
        self.hub.repos.setdefault(repo_id, asked)
        self._answer(409 if there else 200, {"url": f"{self.hub.url}/{repo_id}"})

    def _commit(self, repo_id: str, content: bytes) -> None:
        lines = [json.loads(line) for line in content.splitlines()]
        commit = Commit(lines[0]["value"]["summary"], {})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                large = self.hub.large[value["oid"]]
                assert hashlib.sha256(large).hexdigest() == value["oid"]
                commit.files[value["path"]] = large
            else:
                commit.files[value["path"]] = base64.b64decode(value["content"])
        self.hub.commits.setdefault(repo_id, []).append(commit)
        oid = hashlib.sha1(content).hexdigest()
        self._answer(200, {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}", "commitOid": oid})

    def _store(self, oid: str) -> str:
        return f"{self.hub.url}/large/{oid}?{SIGNATURE}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _begin(self, *, signed: bool = False) -> list[str] | None:
        """The parts of the path; none where the answer has been given already."""
        self.hub.asked.append(f"{self.command} {self.path}")
        for part, (status, why) in self.hub.refusals.items():
            if part in self.path:
                self._answer(status, {"error": why})
                return None
        if not signed and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
            return None
        return urlsplit(self.path).path.strip("/").split("/")

    def _answer(self, status: int, content: dict[str, Any] | None = None) -> None:
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        if content and "error" in content:
            self.send_header("X-Error-Message", content["error"])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
