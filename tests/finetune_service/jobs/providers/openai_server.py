"""A small server that speaks OpenAI's protocol, as far as OpenAI's own does and no further.

It knows no Idempotency-Key, takes no notice of the metadata that it is asked for, and fails as it
is told to. What is asked of it is written down.
"""

from __future__ import annotations

import email
import email.policy
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

RESULTS = "file-results"


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Answer(NamedTuple):
    """What a request is answered in place of what it should be."""

    status: int
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012


class OpenaiServer:
    """The server, with what it holds."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: list[Answer | None] = []
        """What the next requests are answered, if not as they should be."""
        self.after_making: Callable[[Asked], bool] = lambda _: False
        """Told of what has been made; where it says so, the answer is lost."""
        self.files: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.file_status: tuple[str, str | None] = ("processed", None)
        self.results = b""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    @contextmanager
    def serving(self) -> Iterator[OpenaiServer]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def made(self, path: str) -> list[Asked]:
        return [each for each in self.asked if (each.method, each.path) == ("POST", path)]

    def finish(self, **fields: Any) -> None:
        """Has the last job succeed."""
        ended = {"status": "succeeded", "finished_at": 1_800_000_100, "trained_tokens": 512}
        model = {"fine_tuned_model": "ft:base:org:orders:1", "result_files": [RESULTS]}
        self.jobs[-1] |= ended | model | fields

    def answer(self, asked: Asked) -> Any:
        path = asked.path.partition("?")[0]
        parts = path.split("/")[2:]
        match asked.method, *parts:
            case "POST", "files":
                return self._add_file(asked)
            case "GET", "files":
                newest = self.files[::-1]
                return {"object": "list", "data": newest, "has_more": False}
            case "GET", "files", file_id:
                return next(each for each in self.files if each["id"] == file_id)
            case "GET", "files", _, "content":
                return self.results
            case "POST", "fine_tuning", "jobs":
                return self._add_job(asked.json)
            case "GET", "fine_tuning", "jobs":
                return {"object": "list", "data": self.jobs[::-1], "has_more": False}
            case "GET", "fine_tuning", "jobs", job_id:
                return self._job(job_id)
            case "POST", "fine_tuning", "jobs", job_id, "cancel":
                self._job(job_id)["status"] = "cancelled"
                return self._job(job_id)
        raise AssertionError(f"{asked.method} {asked.path}")

    def _job(self, job_id: str) -> dict[str, Any]:
        return next(each for each in self.jobs if each["id"] == job_id)

    def _add_file(self, asked: Asked) -> dict[str, Any]:
        head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + asked.body, policy=email.policy.HTTP)
        file = next(each for each in form.iter_parts() if each.get_filename())
        content = file.get_content()
        content = content.encode() if isinstance(content, str) else content
        status, details = self.file_status
        self.files.append(
            {
                "id": f"file-{len(self.files) + 1}",
                "object": "file",
                "bytes": len(content),
                "created_at": 1_800_000_000,
                "filename": file.get_filename(),
                "purpose": "fine-tune",
                "status": status,
                "status_details": details,
            }
        )
        return self.files[-1]

    def _add_job(self, wanted: dict[str, Any]) -> dict[str, Any]:
        self.jobs.append(
            {
                "id": f"ftjob-{len(self.jobs) + 1}",
                "object": "fine_tuning.job",
                "created_at": 1_800_000_000,
                "error": None,
                "fine_tuned_model": None,
                "finished_at": None,
                "hyperparameters": {},
                "organization_id": "org",
                "result_files": [],
                "status": "validating_files",
                "trained_tokens": None,
                "validation_file": None,
                **wanted,
            }
        )
        return self.jobs[-1]


def _handler(server: OpenaiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body)
            server.asked.append(asked)
            answer = server.answers.pop(0) if server.answers else None
            if answer is None:
                answer = Answer(200, server.answer(asked))
                if self.command == "POST" and server.after_making(asked):
                    # Reset, as where a process or a line between has gone.
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                    return
            raw = isinstance(answer.body, bytes | str)
            content = answer.body if raw else json.dumps(answer.body)
            data = content.encode() if isinstance(content, str) else content
            self.send_response(answer.status)
            self.send_header("content-type", "text/html" if raw else "application/json")
            self.send_header("content-length", str(len(data)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler
