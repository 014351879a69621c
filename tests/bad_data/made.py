"""The bad files that cannot be stored: huge, packed, Parquet, links, places that may not be read.

Each maker is given the path at which its file is expected.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FILES = Path(__file__).with_name("files")
GOOD = FILES / "good.jsonl"
TINY_BASE = Path(__file__).resolve().parents[2] / "examples" / "tiny_base"
UNREADABLE = ("unreadable.jsonl", "closed/rows.jsonl")  # but for root
BAD_NAME = os.fsdecode(b"n\xff.jsonl")
# Deep enough for Python to read it as JSON, and too deep for its functions.
DEEP = 600 if sys.version_info < (3, 12) else 5000
BOMB = 8 * 2**20  # bytes, from some thousand


def make(name: str, folder: Path) -> Path:
    """Makes a bad file in a folder, unless it is there; one that nobody makes is not there."""
    path = folder / name
    if name in MAKERS and not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        MAKERS[name](path)
    return path


def _with_second_row(row: str) -> Callable[[Path], None]:
    """The good rows, but for the second."""

    def write(path: Path) -> None:
        lines = GOOD.read_text().splitlines()
        path.write_text("\n".join([lines[0], row, *lines[2:]]) + "\n")

    return write


def _table(**columns: pa.Array) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path)


def _long_line(path: Path) -> None:
    row = {"prompt": "What is said ever again?", "completion": "delivery on Monday " * 2**19}
    _with_second_row(json.dumps(row))(path)


def _long_broken_line(path: Path) -> None:
    _with_second_row('{"prompt": "' + "word " * (2 * 2**20))(path)


def _long_field(path: Path) -> None:
    answers = ["Paris.", "word " * 40_000, "Tokyo.", "Lima."]
    rows = "".join(f"Question {n}?,{answer}\n" for n, answer in enumerate(answers))
    path.write_text(f"prompt,completion\n{rows}")


def _many_columns(path: Path) -> None:
    names = ",".join(f"column_{n}" for n in range(5000))
    path.write_text(f"{names}\n" + ("," * 4999 + "\n") * 3)


def _deep_extra(path: Path) -> None:
    """An extra column, deep, in a row that is dropped and thus written into the ledger."""
    deep = "[" * DEEP + "]" * DEEP
    _with_second_row(f'{{"prompt": "Why?", "completion": "", "extra": {deep}}}')(path)


def _deep_calls(path: Path) -> None:
    """Arguments of a call, deep, in a row whose text is repaired."""
    deep = '{"of": ' * DEEP + '"ZÃ¼rich"' + "}" * DEEP
    call = f'[{{"type": "function", "function": {{"name": "town", "arguments": {deep}}}}}]'
    turns = [
        '{"role": "user", "content": "Where?"}',
        f'{{"role": "assistant", "tool_calls": {call}}}',
    ]
    rows = [
        f'{{"messages": [{turns[0]}, {{"role": "assistant", "content": "Here {n}."}}]}}'
        for n in range(3)
    ]
    path.write_text("\n".join([rows[0], f'{{"messages": [{", ".join(turns)}]}}', *rows[1:]]) + "\n")


def _secrets(path: Path) -> None:
    # Put together here, so that no search for secrets finds one in this repository.
    secret = "AKI" + "A" + "IOSFODNN7EXAMPLE"
    _with_second_row(json.dumps({"prompt": "Which key?", "completion": f"It is {secret}."}))(path)


def _sixty(path: Path) -> None:
    rows = ({"prompt": f"Question {n}?", "completion": f"The answer is {n}."} for n in range(60))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def _cut(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content[: len(content) // 2])


def _damaged_gzip(path: Path) -> None:
    packed = bytearray(gzip.compress(GOOD.read_bytes() * 50))
    packed[20:60] = b"\xff" * 40
    path.write_bytes(packed)


def _wrong_checksum(path: Path) -> None:
    packed = bytearray(gzip.compress(GOOD.read_bytes()))
    packed[-8] ^= 1
    path.write_bytes(packed)


def _cut_parquet(path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"] * 99, "completion": ["b"] * 99}), path)
    path.write_bytes(path.read_bytes()[:-9])


def _damaged_parquet(path: Path) -> None:
    """Its footer is whole, a page is not."""
    texts = [f"text {n}" for n in range(999)]
    pq.write_table(pa.table({"prompt": texts, "completion": texts}), path)
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)


def _link_out(path: Path) -> None:
    path.mkdir()
    (path / "passwords.jsonl").symlink_to(GOOD)


def _dangling_link(path: Path) -> None:
    path.mkdir()
    shutil.copy(GOOD, path / "a.jsonl")
    (path / "b.jsonl").symlink_to(path / "moved_away.jsonl")


def _unreadable(path: Path) -> None:
    shutil.copy(GOOD, path)
    path.chmod(0)


def _closed(path: Path) -> None:
    shutil.copy(GOOD, path)
    path.parent.chmod(0)


def _model_without_tools(path: Path) -> None:
    """A model whose chat template writes no tools."""
    path.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_BASE / name, path)
    template = (TINY_BASE / "chat_template.jinja").read_text()
    (path / "chat_template.jinja").write_text(template.replace("{%- if tools %}", "{%- if no %}"))


MAKERS: dict[str, Callable[[Path], object]] = {
    "nan_label.parquet": _table(
        text=pa.array(["It came in time.", "Nobody said.", "It came late.", "It came at noon."]),
        label=pa.array([1.0, float("nan"), 0.0, 1.0]),
    ),
    "infinity.parquet": _table(
        text=pa.array(["It came in time.", "It never came."]),
        label=pa.array([1.0, float("inf")]),
    ),
    "bytes.parquet": _table(prompt=pa.array([b"a", b"c"]), completion=pa.array(["b", "d"])),
    "no_rows.parquet": _table(
        prompt=pa.array([], pa.string()), completion=pa.array([], pa.string())
    ),
    "cut.parquet": _cut_parquet,
    "damaged.parquet": _damaged_parquet,
    "long_line.jsonl": _long_line,
    "long_broken_line.jsonl": _long_broken_line,
    "long_field.csv": _long_field,
    "many_columns.csv": _many_columns,
    "deep.jsonl": _with_second_row('{"prompt": ' + "[" * 100_000),
    "deep.json": lambda path: path.write_text("[" * 100_000),
    "deep_extra.jsonl": _deep_extra,
    "deep_calls.jsonl": _deep_calls,
    "secrets.jsonl": _secrets,
    "sixty.jsonl": _sixty,
    "bomb.jsonl.gz": lambda path: path.write_bytes(gzip.compress(b" " * BOMB)),
    "bomb.json.gz": lambda path: path.write_bytes(gzip.compress(b" " * BOMB)),
    "bomb.csv.zst": lambda path: path.write_bytes(_zstd(b" " * BOMB)),
    "cut.jsonl.gz": _cut(gzip.compress(GOOD.read_bytes())),
    "cut.jsonl.zst": _cut(_zstd(GOOD.read_bytes())),
    "damaged.jsonl.gz": _damaged_gzip,
    "wrong_checksum.jsonl.gz": _wrong_checksum,
    "link_out": _link_out,
    "dangling_link": _dangling_link,
    "loop.jsonl": lambda path: path.symlink_to(path),
    "folder.jsonl": Path.mkdir,
    "empty_folder": Path.mkdir,
    "pipe.jsonl": os.mkfifo,
    "unreadable.jsonl": _unreadable,
    "closed/rows.jsonl": _closed,
    BAD_NAME: lambda path: shutil.copy(FILES / "truncated_line.jsonl", path),
    "model_without_tools": _model_without_tools,
}
