"""Large requests: refused without being read, or taken without being held in memory."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest

from tests.finetune_service.api.server import served

START = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
BLOCK = b"x" * 100_000


def send(api, length: str, blocks: Iterator[bytes], path="/v1/files") -> tuple[str, int]:
    """Sends a request byte by byte; gives the answer's first line, and how much was taken."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {api.key()}\r\n"
        f"Content-Type: multipart/form-data; boundary=B\r\n{length}\r\n\r\n"
    )
    sent = 0
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as line:
        line.sendall(head.encode())
        try:
            for block in blocks:
                line.sendall(block)
                sent += len(block)
        except OSError:
            pass  # the server has hung up
        answer = line.recv(65536).decode()
    return answer.partition("\r\n")[0], sent


def chunks(count: int) -> Iterator[bytes]:
    for block in (START, *[BLOCK] * count):
        yield b"%x\r\n%b\r\n" % (len(block), block)


def test_a_length_that_is_too_large_is_refused_before_anything_is_sent(api):
    line, _ = send(api, "Content-Length: 50000000", iter(()))
    assert line.startswith("HTTP/1.1 413")


def test_a_request_without_a_length_is_cut_where_it_becomes_too_large(api):
    line, sent = send(api, "Transfer-Encoding: chunked", chunks(3000))
    assert line.startswith("HTTP/1.1 413")
    assert sent < 50_000_000  # what the limit and the sockets' buffers hold, of 300 MB
    assert not list((api.home / "organizations/acme/files/incoming").iterdir())


def test_a_length_that_lies_is_what_counts(api):
    blocks = (START, *[BLOCK] * 50)
    line, _ = send(api, "Content-Length: 1000", iter(blocks))
    assert line.startswith("HTTP/1.1 400")  # cut at what was said, where the form is not whole
    assert not list((api.home / "organizations/acme/files/incoming").iterdir())


def test_other_requests_are_small(api):
    line, _ = send(api, "Content-Length: 50000000", iter(()), path="/v1/uploads")
    assert line.startswith("HTTP/1.1 413")


@pytest.mark.parametrize("size", [1_000_001, 3_000_000, 50_000_000])
def test_the_client_is_told_in_one_attempt(client, size):
    with pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("a.bin", b"x" * size), purpose="user_data")
    assert refused.value.status_code == 413
    assert refused.value.code == "too_large"


def test_a_file_as_large_as_allowed_is_taken(client):
    file = client.files.create(file=("a.bin", b"x" * 1_000_000), purpose="user_data")
    assert file.bytes == 1_000_000


def test_a_large_file_is_never_in_memory(tmp_path):
    source = tmp_path / "large.bin"
    with source.open("wb") as file:
        for number in range(300):
            file.write(bytes([number % 256]) * 1_000_000)
    home = tmp_path / "home"
    home.mkdir()
    with served(home) as api:
        client = api.client()
        client.files.create(file=("small.bin", b"x"), purpose="user_data")
        process = psutil.Process(api.process.pid)
        before = process.memory_info().rss
        copy = tmp_path / "copy.bin"
        file = client.files.create(file=source, purpose="user_data")
        with (
            client.files.with_streaming_response.content(file.id) as answer,
            copy.open("wb") as target,
        ):
            for block in answer.iter_bytes():
                target.write(block)
        # The most that it ever had, as the kernel counts it.
        status = Path(f"/proc/{api.process.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        assert file.bytes == copy.stat().st_size == 300_000_000
        assert peak - before < 40_000_000
