"""Webhooks: signed as the official client reads them, tried again, and never led inside."""

from __future__ import annotations

import ipaddress
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai
import pytest

from finetune_core.exceptions import InvalidConfigError
from finetune_service.jobs import webhooks as module
from finetune_service.jobs.record import JobRecord, Outcome
from finetune_service.jobs.webhooks import Webhooks, is_public

JOB = JobRecord(
    id="ftjob-06gzty25r5v9nns1bbv75g4k", name="x", organization="acme", created_at=1, model="tiny"
)


class Receiver:
    """An organisation's own server; it fails as often as it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, dict[str, str]]] = []
        self.failures = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append((body, dict(self.headers)))
                receiver.failures -= 1
                self.send_response(500 if receiver.failures >= 0 else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_port}/hook?a=b"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver():
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


def ended(status="succeeded", at=None) -> Outcome:
    return Outcome(status=status, finished_at=at or time.time() + 1)


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_the_official_client_accepts_it(tmp_path, receiver, status):
    webhooks = Webhooks(tmp_path, internal=True)
    made = webhooks.set("acme", receiver.url)
    assert webhooks.deliver(JOB, ended(status), tmp_path)
    body, headers = receiver.got[0]
    client = openai.OpenAI(api_key="x", webhook_secret=made.secret.get_secret_value())
    event = client.webhooks.unwrap(body, headers)
    assert (event.type, event.object) == (f"fine_tuning.job.{status}", "event")
    assert event.data.id == JOB.id
    assert event.id == headers["webhook-id"]
    assert headers["Host"] == receiver.url.split("/")[2]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + b" ", headers)


def test_it_is_tried_again_and_told_once(tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0.2, 0.2))
    receiver.failures = 2
    webhooks = Webhooks(tmp_path, internal=True)
    webhooks.set("acme", receiver.url)
    outcome = ended()
    assert not webhooks.deliver(JOB, outcome, tmp_path)
    assert not webhooks.deliver(JOB, outcome, tmp_path)  # too early: nothing is sent
    assert len(receiver.got) == 1
    restarted = Webhooks(tmp_path, internal=True)
    while not restarted.deliver(JOB, outcome, tmp_path):
        time.sleep(0.02)
    assert restarted.deliver(JOB, outcome, tmp_path)
    assert len(receiver.got) == 3
    assert len({headers["webhook-id"] for _, headers in receiver.got}) == 1


def test_it_is_given_up_in_the_end(tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0, 0))
    receiver.failures = 99
    webhooks = Webhooks(tmp_path, internal=True)
    webhooks.set("acme", receiver.url)
    outcome = ended()
    assert [webhooks.deliver(JOB, outcome, tmp_path) for _ in range(4)] == [
        False,
        False,
        True,
        True,
    ]
    assert len(receiver.got) == 3


def test_what_ended_before_is_not_told(tmp_path, receiver):
    webhooks = Webhooks(tmp_path, internal=True)
    assert webhooks.deliver(JOB, ended(), tmp_path)
    webhooks.set("acme", receiver.url)
    assert webhooks.deliver(JOB, ended(at=time.time() - 60), tmp_path)
    assert receiver.got == []


def test_nothing_inside_is_told(tmp_path, receiver):
    Webhooks(tmp_path, internal=True).set("acme", receiver.url)
    assert not Webhooks(tmp_path).deliver(JOB, ended(), tmp_path)
    assert receiver.got == []
    assert json.loads((tmp_path / "webhook.json").read_text())["attempts"] == 1


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "::1",
     "fe80::1", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1",
     "100.64.0.1", "255.255.255.255"],
)  # fmt: skip
def test_addresses_that_are_inside(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are_outside(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url", ["http://example.org", "ftp://example.org", "https://", "x", "https://a:b@example.org"]
)
def test_urls_that_cannot_be_told(tmp_path, url):
    with pytest.raises(InvalidConfigError):
        Webhooks(tmp_path).set("acme", url)


def test_the_secret_is_nobody_elses_to_read(tmp_path):
    webhooks = Webhooks(tmp_path)
    made = webhooks.set("acme", "https://example.org/")
    file = tmp_path / "organizations/acme/webhook.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert made.secret.get_secret_value() not in repr(made)
    webhooks.remove("acme")
    assert webhooks.get("acme") is None
