"""Speed of training, beside TRL's SFTTrainer on the same base, rows, adapter and steps.

    python -m benchmarks.train [--data FILE] [--steps 20] [--rounds 3] [--json]

GSM8K rows, a Llama of 16.9M parameters with a vocabulary of 16,384 and random weights, LoRA of
rank 16 on all linear layers without dropout, 16 rows a step, bf16. Each contestant runs in a
process of its own, in turns, several rounds; the first steps of each, in which kernels are
compiled and memory is mapped, are not counted. All are compared by tokens of data a second
(padding does not count), and by the loss that each model then has on the same held-out rows,
computed alike in float32.

On a machine with a GPU the base is a Llama of 1.0 billion parameters, the memory is the GPU's, and
a column says which share of the GPU's speed the model's own arithmetic takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measured, measure

DATA = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train.jsonl"
WARM_UP = 3  # steps that are not counted
HELD_OUT = 160  # rows
RANK, ALPHA, RATE, ROWS, SEED = 16, 32, 2e-4, 16, 42
CPU_SHAPE = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
}
GPU_SHAPE = {  # Llama 3.2 1B, but for the vocabulary
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
# Dense bf16 operations a second, of the makers' data sheets; the first name that fits.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
DEFAULT, OURS = "TRL, its defaults", "ours"
BEST = "TRL, at its best"


def main() -> None:
    """Measures and prints the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="JSON lines: question, answer")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(CONTESTANTS[arguments.work](arguments.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"BENCHMARK_FOLDER": folder, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        make_base(Path(folder) / "base", arguments.data)
        results = compete(arguments.steps, arguments.rounds)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results, arguments)


def compete(steps: int, rounds: int) -> dict[str, Any]:
    """Runs everybody; the best of TRL is the fastest of its settings in a round of their own."""
    tries = {name: run(name, steps) for name in CONTESTANTS if name.startswith(f"{BEST}: ")}
    best = max(tries, key=lambda name: tries[name].result["tokens_per_s"])
    names = {DEFAULT: DEFAULT, BEST: best, OURS: OURS}
    found: dict[str, list[Measured]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, work in names.items():
            found[name].append(run(work, steps))
    speeds = {name: [one.result["tokens_per_s"] for one in ran] for name, ran in found.items()}
    return {
        name: {
            "settings": names[name],
            **_ratios("trl_default", speeds[name], speeds[DEFAULT]),
            **_ratios("trl_best", speeds[name], speeds[BEST]),
            "tokens_per_s": statistics.median(speeds[name]),
            "final_loss": ran[-1].result["final_loss"],
            "grad_norm": ran[-1].result["grad_norm"],
            "peak_mb": statistics.median(
                one.result["gpu_peak_bytes"] or one.peak_bytes for one in ran
            )
            / 1e6,
            "device": ran[-1].result["device"],
            "utilisation": ran[-1].result["utilisation"],
        }
        for name, ran in found.items()
    }


def _ratios(short: str, mine: list[float], theirs: list[float]) -> dict[str, Any]:
    """Speeds pair by pair, and their median."""
    pairs = [one / other for one, other in zip(mine, theirs, strict=True)]
    return {f"ratio_{short}": statistics.median(pairs), f"ratio_{short}_rounds": pairs}


def show(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Prints the table."""
    device = results[OURS]["device"]
    title = f"{arguments.steps} steps, {arguments.rounds} rounds, {os.cpu_count()} cores, {device}"
    table = Table(title=title)
    columns = ("", "tokens/s", "to TRL's defaults", "to its best", "loss", "grad norm", "peak MB")
    columns += ("of the peak",) if results[OURS]["utilisation"] else ()
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for found in results.values():
        ratios = [
            f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
            for each in (found["ratio_trl_default_rounds"], found["ratio_trl_best_rounds"])
        ]
        table.add_row(
            found["settings"],
            f"{found['tokens_per_s']:,.0f}",
            *ratios,
            f"{found['final_loss']:.4f}",
            f"{found['grad_norm']:.3f}",
            f"{found['peak_mb']:,.0f}",
            *([f"{found['utilisation']:.1%}"] if found["utilisation"] else []),
        )
    Console(width=140).print(table)


def run(name: str, steps: int) -> Measured:
    """Runs a contestant in a process of its own."""
    from finetune_core.trainers.request import MEMORY

    sys.stderr.write(f"{name}\n")
    environment = MEMORY if name == OURS else None  # as the train stage starts its child
    return measure("benchmarks.train", ["--work", name, "--steps", str(steps)], environment)


def make_base(folder: Path, data: Path) -> None:
    """Writes the base, the rows to learn from and those held out."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rows = [json.loads(line) for line in data.read_text().splitlines()]
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=16384,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    texts = (f"{row['question']}\n{row['answer']}" for row in rows)
    model.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token="<eos>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16384,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
            **(GPU_SHAPE if torch.cuda.is_available() else CPU_SHAPE),
        )
    ).save_pretrained(folder)
    for name, part in (("train", rows[HELD_OUT:]), ("held_out", rows[:HELD_OUT])):
        lines = [
            json.dumps({"prompt": f"{row['question']}\n", "completion": row["answer"]})
            for row in part
        ]
        (folder.parent / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def trl(steps: int, **settings: Any) -> dict[str, Any]:
    """TRL's SFTTrainer."""
    import peft
    import torch
    import transformers
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    folder = Path(os.environ["BENCHMARK_FOLDER"])
    rows = load_dataset("json", data_files=str(folder / "train.jsonl"), split="train")
    trainer = SFTTrainer(
        model=str(folder / "base"),
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(dir=folder),
            per_device_train_batch_size=settings.pop("rows", ROWS),
            max_steps=steps,
            learning_rate=RATE,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            **settings,
        ),
        train_dataset=rows,
        peft_config=peft.LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    return timed(trainer, trainer.model)


def ours(steps: int) -> dict[str, Any]:
    """The engine of this project, as the train stage calls it."""
    from finetune_core.config.sections import (
        DatasetConfig,
        LoraConfig,
        ModelConfig,
        TokenizationConfig,
        TrainingConfig,
    )
    from finetune_core.data.sanitize import SanitizeRequest, sanitize
    from finetune_core.data.tokenize import TokenizeRequest, tokenize
    from finetune_core.trainers.engine import make_loop
    from finetune_core.trainers.request import TrainRequest

    folder = Path(os.environ["BENCHMARK_FOLDER"])
    dataset = DatasetConfig(
        path=str(folder / "train.jsonl"), validation_path=str(folder / "held_out.jsonl")
    )
    clean = sanitize(SanitizeRequest(dataset=dataset, cache=folder / "data"), _ignore)
    tokens = tokenize(
        TokenizeRequest(
            clean=clean,
            tokenizer=folder / "base",
            tokenization=TokenizationConfig(template="plain"),
            sanitize=dataset.sanitize,
            cache=folder / "tokens",
        ),
        _ignore,
    )
    request = TrainRequest(
        tokens=tokens,
        model=ModelConfig(name=str(folder / "base")),
        training=TrainingConfig(
            learning_rate=RATE, batch_size=ROWS, precision="bf16", logging_steps=1, seed=SEED
        ),
        lora=LoraConfig(lora_rank=RANK, lora_alpha=ALPHA, lora_dropout=0.0),
        output=Path(tempfile.mkdtemp(dir=folder)),
    )
    trainer = make_loop(request, _ignore)
    trainer.args.max_steps = steps
    return timed(trainer, trainer.model)


def timed(trainer: Any, model: Any) -> dict[str, Any]:
    """Trains, and measures the steps behind the warm-up."""
    import torch
    from transformers import TrainerCallback

    seconds: list[float] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        """Takes the time of steps; the loader's work for the next step falls into it too."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter())
            tokens.append(counted[0])

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter())
            tokens.append(0)

    counted = [0]
    collate = trainer.data_collator

    def counting(rows: list[dict[str, Any]]) -> Any:
        counted[0] += sum(len(row["input_ids"]) for row in rows)
        return collate(rows)

    trainer.data_collator = counting
    trainer.callback_handler.callbacks = [
        each
        for each in trainer.callback_handler.callbacks
        if type(each).__name__ not in ("Keeper", "Announcer")
    ]
    trainer.add_callback(Clock())
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    speed = (tokens[-1] - tokens[WARM_UP]) / (seconds[-1] - seconds[WARM_UP])
    gpu = torch.cuda.is_available()
    return {
        "seconds": seconds[-1] - seconds[WARM_UP],
        "tokens_per_s": speed,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "gpu_peak_bytes": torch.cuda.max_memory_allocated() if gpu else None,
        "utilisation": utilisation(model, speed) if gpu else None,
        "final_loss": held_out_loss(model),
        "grad_norm": steps[-1]["grad_norm"],
        "losses": [entry["loss"] for entry in steps],
    }


def utilisation(model: Any, tokens_per_s: float) -> float | None:
    """The share of the GPU's peak that the model's own products take (as MFU, arXiv 2204.02311).

    A frozen weight takes 4 operations a token, forward and for the gradient of its input; a trained
    one 6. What attention takes besides is left out: rows are short.
    """
    import torch

    device = torch.cuda.get_device_name()
    peak = next((speed for name, speed in PEAKS.items() if name in device), None)
    weights = list(model.parameters())
    frozen = sum(weight.numel() for weight in weights if not weight.requires_grad)
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    return tokens_per_s * (4 * frozen + 6 * trained) / peak if peak else None


def held_out_loss(model: Any) -> float:
    """The mean loss over the answers' tokens of the held-out rows, in float32."""
    import torch
    from transformers import AutoTokenizer

    folder = Path(os.environ["BENCHMARK_FOLDER"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    model = model.float().eval()
    loss, count = 0.0, 0
    for line in (folder / "held_out.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
        with torch.inference_mode():
            ids = torch.tensor([prompt + answer], device=model.device)
            logits = model(input_ids=ids).logits[0].float()
        right = logits[len(prompt) - 1 : -1].log_softmax(-1)
        loss -= float(right[torch.arange(len(answer)), answer].sum())
        count += len(answer)
    return loss / count


def _ignore(_: object) -> None:
    """Nobody listens to the events."""


GROUPED = {"train_sampling_strategy": "group_by_length"}
CONTESTANTS: dict[str, Callable[[int], dict[str, Any]]] = {
    DEFAULT: trl,
    f"{BEST}: length grouping": partial(trl, **GROUPED),
    f"{BEST}: length grouping, no checkpointing": partial(
        trl, **GROUPED, gradient_checkpointing=False
    ),
    f"{BEST}: packing": partial(
        trl, packing=True, max_length=ROWS * 148, rows=1, gradient_checkpointing=False
    ),
    f"{BEST}: packing in fours": partial(
        trl, packing=True, max_length=4 * 148, rows=4, gradient_checkpointing=False
    ),
    OURS: ours,
}


if __name__ == "__main__":
    main()
