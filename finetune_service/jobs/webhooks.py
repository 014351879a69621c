"""Webhooks: tell an organisation's own server when a job has ended, signed.

As https://www.standardwebhooks.com has it, which the official client's `webhooks.unwrap` reads.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import socket
import time
from pathlib import Path
from typing import NamedTuple

import httpx
from pydantic import SecretStr

from finetune_core.exceptions import Fault, InvalidConfigError
from finetune_core.storage import write_json
from finetune_core.types import Record
from finetune_service.jobs.record import JobRecord, Outcome

SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with
SECONDS = 10.0
# After which a delivery that failed is tried again; after the last one it is given up.
WAITS = (5, 30, 120, 600, 3600, 6 * 3600, 24 * 3600, 24 * 3600)
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

log = logging.getLogger(__name__)


class Webhook(Record):
    """Where an organisation is told, and by which secret it knows that it was we."""

    url: str
    secret: SecretStr
    created_at: int


class Delivery(Record):
    """What has become of telling about one job."""

    attempts: int = 0
    next_at: float = 0.0
    done: bool = False


class _Target(NamedTuple):
    """An address to connect to, and the name that it was found by."""

    url: httpx.URL
    host: str
    name: str


class Webhooks:
    """The webhooks of an installation, each organisation's in a file of its own.

    Args:
        home: `FINETUNE_HOME`.
        internal: Whether they may lead to this machine or into its network.
    """

    def __init__(self, home: Path, *, internal: bool = False) -> None:
        self._root = home.expanduser().absolute() / "organizations"
        self._internal = internal
        self._client = httpx.Client(
            timeout=SECONDS,
            trust_env=False,
            follow_redirects=False,
            # A connection is known by its address, at which several hosts may be.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def set(self, organization: str, url: str) -> Webhook:
        """Has an organisation's finished jobs told to a URL from now on, by a new secret.

        Raises:
            InvalidConfigError: It is no URL that may be told.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InvalidConfigError([Fault("url", str(error))]) from None
        allowed = ("https", "http") if self._internal else ("https",)
        if parsed.scheme not in allowed or not parsed.host or parsed.userinfo:
            problem = f"must begin with {' or '.join(allowed)}:// and name a host (got {url!r})"
            raise InvalidConfigError([Fault("url", problem)])
        secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        webhook = Webhook(url=url, secret=SecretStr(secret), created_at=int(time.time()))
        file = self._file(organization)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {**webhook.model_dump(mode="json"), "secret": secret}
        before = os.umask(0o077)
        try:
            write_json(file, content)
        finally:
            os.umask(before)
        return webhook

    def get(self, organization: str) -> Webhook | None:
        """An organisation's webhook, if it has one."""
        try:
            return Webhook.model_validate_json(self._file(organization).read_bytes())
        except FileNotFoundError:
            return None

    def remove(self, organization: str) -> None:
        """Has an organisation told nothing any more."""
        self._file(organization).unlink(missing_ok=True)

    def deliver(self, record: JobRecord, outcome: Outcome, folder: Path) -> bool:
        """Tells how a job ended, where that is due; the job's folder remembers it.

        At least once: where this process ends between telling and remembering, it is told again,
        by the same id.

        Returns:
            Whether there is nothing left to do.
        """
        webhook = self.get(record.organization)
        if webhook is None or outcome.finished_at < webhook.created_at:
            return True
        file = folder / "webhook.json"
        delivery = Delivery()
        if file.exists():
            delivery = Delivery.model_validate_json(file.read_bytes())
        if delivery.done or time.time() < delivery.next_at:
            return delivery.done
        told = self._tell(webhook, record, outcome)
        attempts = delivery.attempts + 1
        done = told or attempts > len(WAITS)
        if done and not told:
            log.warning("webhook of %s about %s: given up", record.organization, record.id)
        wait = 0 if done else WAITS[attempts - 1]
        delivery = Delivery(attempts=attempts, next_at=time.time() + wait, done=done)
        write_json(file, delivery.model_dump(mode="json"))
        return done

    def _tell(self, webhook: Webhook, record: JobRecord, outcome: Outcome) -> bool:
        event_id = f"evt_{record.id.partition('-')[2]}"
        now = int(time.time())
        body = json.dumps(
            {
                "id": event_id,
                "object": "event",
                "created_at": int(outcome.finished_at),
                "type": f"fine_tuning.job.{outcome.status.value}",
                "data": {"id": record.id},
            }
        )
        try:
            target = _resolved(httpx.URL(webhook.url), internal=self._internal)
            with self._client.stream(
                "POST",
                target.url,
                content=body,
                headers={
                    "Host": target.host,
                    "Content-Type": "application/json",
                    "webhook-id": event_id,
                    "webhook-timestamp": str(now),
                    "webhook-signature": sign(webhook.secret, event_id, now, body),
                },
                extensions={"sni_hostname": target.name},
            ) as answer:
                if answer.is_success:
                    return True
                problem = f"answers {answer.status_code}"
        except (httpx.HTTPError, OSError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        log.warning("webhook of %s about %s: %s", record.organization, record.id, problem)
        return False

    def _file(self, organization: str) -> Path:
        return self._root / organization / "webhook.json"


def sign(secret: SecretStr, event_id: str, timestamp: int, body: str) -> str:
    """The signature of a body: HMAC-SHA256 over `id.timestamp.body`."""
    key = base64.b64decode(secret.get_secret_value().removeprefix(SECRET_PREFIX))
    signed = hmac.new(key, f"{event_id}.{timestamp}.{body}".encode(), hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


def is_public(address: Address) -> bool:
    """Whether an address is anybody's on the internet, not this machine's or its network's."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def _resolved(url: httpx.URL, *, internal: bool) -> _Target:
    """Asks for a host's address once, and has that one connected to that was looked at.

    A name whose answer changes between looking and connecting would lead inside otherwise.

    Raises:
        ValueError: One of its addresses may not be told.
    """
    port = url.port or (443 if url.scheme == "https" else 80)
    found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    for address in addresses:
        if not internal and not is_public(address):
            raise ValueError(f"{url.host} leads to {address}, which is not on the internet")
    return _Target(url.copy_with(host=str(addresses[0])), url.netloc.decode(), url.host)
