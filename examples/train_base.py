"""Trains the tiny base model from scratch: tokenizer, weights and chat template.

A Llama of about a million parameters that reads and writes any text, knows the chat format and
can copy what it is asked for. One machine with one thread count gives the same weights each time.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
PAD, BOS, EOS, START = "<|pad|>", "<|bos|>", "<|end|>", "<|start|>"
MAX_LENGTH = 2048

# Nothing is trimmed and no turn looks at a later one, so the rendering of the first k messages
# with a generation prompt is a prefix of the rendering of the first k + 1.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
    {{- "<|start|>system\\nTools: " ~ (tools | tojson) ~ eos_token ~ "\\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role not in ["system", "user", "assistant", "tool"] %}
        {{- raise_exception("unknown role: " ~ message.role) }}
    {%- endif %}
    {{- "<|start|>" ~ message.role ~ "\\n" ~ message.content }}
    {%- if message.tool_calls %}
        {{- message.tool_calls | tojson }}
    {%- endif %}
    {{- eos_token ~ "\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start|>assistant\\n" }}
{%- endif %}
"""


def read_documents(corpus: Path) -> list[dict]:
    """Reads the rows that ``make_corpus.py`` wrote to a folder."""
    with (corpus / "corpus.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def train_tokenizer(documents: list[dict], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE: all 256 bytes are tokens, so any text comes back as it went in."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS, START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (
        text
        for row in documents
        for text in ([row["text"]] if "text" in row else [m["content"] for m in row["messages"]])
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Example:
    """One tokenized document.

    Attributes:
        ids: Its tokens.
        trained: For each token, whether the loss counts it.
    """

    ids: list[int]
    trained: list[bool]


def tokenize(document: dict, tokenizer: PreTrainedTokenizerFast) -> Example:
    """Tokenizes a document: plain text counts whole, a chat by its assistant's turns."""
    if "text" in document:
        ids = tokenizer(f"{BOS}{document['text']}{EOS}", add_special_tokens=False)["input_ids"]
        return Example(ids, [True] * len(ids))
    pieces: list[tuple[str, bool]] = [(BOS, False)]
    for message in document["messages"]:
        pieces.append((f"{START}{message['role']}\n", False))
        pieces.append((f"{message['content']}{EOS}", message["role"] == "assistant"))
        pieces.append(("\n", False))
    encoded = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
    trained = [counts for part, (_, counts) in zip(encoded, pieces, strict=True) for _ in part]
    return Example([token for part in encoded for token in part], trained)


def make_batches(examples: list[Example], batch_size: int) -> list[list[Example]]:
    """Puts documents of like length together, then shuffles the batches."""
    by_length = sorted(examples, key=lambda example: len(example.ids))
    starts = torch.randperm(len(by_length) // batch_size) * batch_size
    return [by_length[start : start + batch_size] for start in starts.tolist()]


def collate(batch: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads on the right.

    Returns:
        Token ids and, for each, whether the loss counts it, both of shape (batch, length).
    """
    ids = [torch.tensor(example.ids) for example in batch]
    trained = [torch.tensor(example.trained) for example in batch]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad),
        pad_sequence(trained, batch_first=True, padding_value=False),
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Builds the untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        # About one over the root of the width: the usual 0.02 is meant for wider models, and
        # here it would start attention out almost uniform.
        initializer_range=0.08,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warms up over the first twentieth of the steps, then a half cosine to a twentieth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


def train(
    model: LlamaForCausalLM, batches: list[list[Example]], *, steps: int, peak: float
) -> None:
    """Trains in place, in float32."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.1)
    model.train()
    began, tokens = time.monotonic(), 0
    for step in range(steps):
        ids, trained = collate(batches[step % len(batches)], model.config.pad_token_id)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        # Causal attention never looks right, so padding there needs no mask, and the head is
        # applied only where the loss counts.
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        counted = trained[:, 1:]
        loss = cross_entropy(model.lm_head(hidden[counted]), ids[:, 1:][counted])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += ids.numel()
        if step % 50 == 0 or step == steps - 1:
            seconds = time.monotonic() - began
            print(
                f"step {step:5d}/{steps}  loss {loss.item():.4f}  gradient norm {norm:.3f}"
                f"  {tokens / seconds:,.0f} tokens/s  {seconds:.0f} s",
                flush=True,
            )


def main() -> None:
    """Reads the flags, trains, and writes the model folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="make_corpus.py's folder")
    parser.add_argument(
        "--output", type=Path, default=HERE / "tiny_base", help="folder to write to"
    )
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=16, help="documents in a step")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=10)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)

    documents = read_documents(args.corpus)
    tokenizer = train_tokenizer(documents, args.vocab_size)
    examples = [tokenize(document, tokenizer) for document in documents]
    batches = make_batches(examples, args.batch_size)
    model = build_model(tokenizer)
    tokens = sum(len(example.ids) for example in examples)
    print(f"{tokens:,} tokens, {model.num_parameters():,} parameters", flush=True)
    train(model, batches, steps=args.steps, peak=args.learning_rate)

    model.eval()
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    size = (args.output / "model.safetensors").stat().st_size
    print(f"model.safetensors: {size:,} bytes in {args.output}")


if __name__ == "__main__":
    main()
