"""Speed and memory of sanitizing and tokenizing, beside a plain script on `datasets`.

    python -m benchmarks.data [--size-mb 1000] [--compare-mb 100] [--rounds 3]

Both sides read the same generated JSONL file, in processes of their own, in turns. The plain
script is what a careful person writes: `load_dataset`, `map` and `filter` in as many processes as
there are cores; exact duplicates by a set of hashes; a chat template and the tokenizer in batches.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measured, measure

BASE = Path(__file__).parents[1] / "examples" / "tiny_base"
MB = 10**6
DUPLICATES, NEAR_DUPLICATES = 0.02, 0.02  # of the rows
WORDS = 20_000


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=1000, help="for ours alone")
    parser.add_argument("--compare-mb", type=int, default=100, help="for both sides")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        name, file = arguments.work
        print(json.dumps(WORK[name](Path(file))))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "BENCHMARK_FOLDER": folder,
        }
        large = generate(Path(folder) / "large.jsonl", arguments.size_mb * MB)
        small = generate(Path(folder) / "small.jsonl", arguments.compare_mb * MB)
        compare(small, arguments.rounds)
        alone(large)


def compare(file: Path, rounds: int) -> None:
    """Prints both sides on one file, each number the median of the rounds."""
    table = Table(title=f"{_megabytes(file):,.0f} MB, {os.cpu_count()} cores, {rounds} rounds")
    for column in ("", "ours MB/s", "peer MB/s", "ratio", "lowest to highest"):
        table.add_column(column, justify="right" if column else "left")
    for title, ours, peer in (
        ("sanitize, exact rules; peer: datasets", "sanitize", "peer_sanitize"),
        ("tokenize with masks; peer: datasets.map, no masks", "tokenize", "peer_tokenize"),
        ("tokenize with masks; peer: tokenizers.encode_batch", "tokenize", "raw_tokenize"),
    ):
        pairs = [(_run(ours, file), _run(peer, file)) for _ in range(rounds)]
        ratios = [theirs.seconds / mine.seconds for mine, theirs in pairs]
        speeds = [
            _megabytes(file) / statistics.median(each.seconds for each in side)
            for side in zip(*pairs, strict=True)
        ]
        table.add_row(
            title,
            *(f"{speed:.1f}" for speed in speeds),
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        )
    Console(width=120).print(table)


def alone(file: Path) -> None:
    """Prints ours on a large file, with the memory that it takes."""
    table = Table(title=f"{_megabytes(file):,.0f} MB, ours")
    for column in ("", "s", "MB/s", "peak MB of all processes", "rows", "dropped"):
        table.add_column(column, justify="right" if column else "left")
    for title, work in (
        ("sanitize, exact rules", "sanitize"),
        ("sanitize, near duplicates too", "sanitize_near"),
        ("tokenize", "tokenize"),
    ):
        found = _run(work, file)
        table.add_row(
            title,
            f"{found.seconds:.0f}",
            f"{_megabytes(file) / found.seconds:.1f}",
            f"{found.peak_bytes / MB:,.0f}",
            f"{found.result['rows']:,}",
            f"{found.result['dropped']:,}",
        )
    Console(width=120).print(table)


def generate(file: Path, size: int) -> Path:
    """Writes rows of a prompt and an answer, of words as frequent as in prose (Zipf's law)."""
    draw = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = [
        "".join(draw.choices(letters, range(26, 0, -1), k=draw.randint(2, 9))) for _ in range(WORDS)
    ]
    words[100:WORDS:50] = [f"{word}é" for word in words[100:WORDS:50]]  # and some beyond ASCII
    weights = [1 / rank for rank in range(2, WORDS + 2)]
    pool = draw.choices(words, weights, k=1_000_000)

    def text(shortest: int, longest: int) -> str:
        start = draw.randrange(len(pool) - longest)
        return " ".join(pool[start : start + draw.randint(shortest, longest)]) + draw.choice(".?!")

    written, rows = 0, [{"prompt": "none", "completion": "none"}]
    with file.open("w", encoding="utf-8") as lines:
        while written < size:
            chance = draw.random()
            row = {"prompt": text(15, 80), "completion": text(20, 200)}
            if chance < DUPLICATES:
                row = draw.choice(rows)
            elif chance < DUPLICATES + NEAR_DUPLICATES:
                known = draw.choice(rows)
                row = {**known, "completion": f"{known['completion']} again"}
            elif len(rows) < 10_000:
                rows.append(row)
            written += lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    return file


def sanitize(file: Path, near: str = "off") -> dict:
    """Ours, over the same call as the flow's."""
    from finetune_core.config.sections import DatasetConfig
    from finetune_core.data.sanitize import SanitizeRequest
    from finetune_core.data.sanitize import sanitize as work

    dataset = DatasetConfig(path=str(file), sanitize={"near_duplicate": near})
    folder = tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"])
    start = time.perf_counter()
    clean = work(SanitizeRequest(dataset=dataset, cache=folder), lambda _: None)
    seconds = time.perf_counter() - start
    kept = Path(os.environ["BENCHMARK_FOLDER"]) / f"clean-{file.stem}.json"
    kept.write_text(clean.model_dump_json())  # what tokenize goes on with
    return {"seconds": seconds, "rows": clean.rows, "dropped": clean.dropped}


def tokenize(file: Path) -> dict:
    """Ours, on what `sanitize` left."""
    from finetune_core.config.sanitizing import SanitizeConfig
    from finetune_core.config.sections import TokenizationConfig
    from finetune_core.data.tokenize import TokenizeRequest
    from finetune_core.data.tokenize import tokenize as work
    from finetune_core.types import CleanData

    kept = Path(os.environ["BENCHMARK_FOLDER"]) / f"clean-{file.stem}.json"
    request = TokenizeRequest(
        clean=CleanData.model_validate_json(kept.read_text()),
        tokenizer=BASE,
        tokenization=TokenizationConfig(max_length=8192),
        sanitize=SanitizeConfig(),
        cache=tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"]),
    )
    start = time.perf_counter()
    tokens = work(request, lambda _: None)
    return {
        "seconds": time.perf_counter() - start,
        "rows": tokens.rows,
        "dropped": tokens.dropped,
    }


def peer_sanitize(file: Path) -> dict:
    """A plain script: empty rows and exact duplicates out, a tenth held out, written as Parquet."""
    import hashlib

    from datasets import load_dataset

    def mark(rows: dict) -> dict:
        pairs = zip(rows["prompt"], rows["completion"], strict=True)
        texts = [" ".join(f"{prompt}\n{answer}".split()) for prompt, answer in pairs]
        return {"digest": [hashlib.sha256(text.encode()).hexdigest() for text in texts]}

    seen: set[str] = set()

    def is_new(rows: dict) -> list[bool]:
        new = []
        for prompt, answer, digest in zip(
            rows["prompt"], rows["completion"], rows["digest"], strict=True
        ):
            new.append(bool(prompt.strip() and answer.strip()) and digest not in seen)
            seen.add(digest)
        return new

    start = time.perf_counter()
    data = load_dataset("json", data_files=str(file), split="train")
    rows = len(data)
    data = data.map(mark, batched=True, num_proc=os.cpu_count())
    data = data.filter(is_new, batched=True).remove_columns("digest")
    parts = data.train_test_split(0.1, seed=42)
    for name, part in parts.items():
        part.to_parquet(f"{os.environ['BENCHMARK_FOLDER']}/peer-{name}.parquet")
    return {"seconds": time.perf_counter() - start, "rows": rows, "dropped": rows - len(data)}


def peer_tokenize(file: Path) -> dict:
    """A plain script: template and tokenizer in batches; no labels, nothing checked."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)

    def encode(rows: dict) -> dict:
        chats = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            for prompt, answer in zip(rows["prompt"], rows["completion"], strict=True)
        ]
        texts = tokenizer.apply_chat_template(chats, tokenize=False)
        return {"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]}

    data = load_dataset("json", data_files=str(file), split="train")
    start = time.perf_counter()
    data = data.map(encode, batched=True, num_proc=os.cpu_count(), remove_columns=data.column_names)
    return {"seconds": time.perf_counter() - start, "rows": len(data), "dropped": 0}


def raw_tokenize(file: Path) -> dict:
    """The tokenizers library alone, over rendered texts in memory, its tokens thrown away."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    backend = tokenizer.backend_tokenizer
    seconds, count = 0.0, 0
    texts: list[str] = []

    def encode() -> None:
        nonlocal seconds, count
        start = time.perf_counter()
        backend.encode_batch(texts, add_special_tokens=False)
        seconds += time.perf_counter() - start
        count += len(texts)
        texts.clear()

    with file.open() as lines:
        for line in lines:
            row = json.loads(line)
            texts.append(
                f"<|bos|><|start|>user\n{row['prompt']}<|end|>\n"
                f"<|start|>assistant\n{row['completion']}<|end|>\n"
            )
            if len(texts) == 1000:
                encode()
    encode()
    return {"seconds": seconds, "rows": count, "dropped": 0}


WORK: dict[str, Callable[[Path], dict]] = {
    "sanitize": sanitize,
    "sanitize_near": lambda file: sanitize(file, "drop"),
    "tokenize": tokenize,
    "peer_sanitize": peer_sanitize,
    "peer_tokenize": peer_tokenize,
    "raw_tokenize": raw_tokenize,
}


def _run(name: str, file: Path) -> Measured:
    # The peers may not find in a cache what they did in the round before.
    os.environ["HF_HOME"] = tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"])
    sys.stderr.write(f"{name} on {_megabytes(file):,.0f} MB\n")
    return measure("benchmarks.data", ["--work", name, str(file)])


def _megabytes(file: Path) -> float:
    return file.stat().st_size / MB


if __name__ == "__main__":
    main()
