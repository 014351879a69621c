"""Tiny models with random weights, of families that people tune, and rows that they can learn.

A row is a review of made-up words; its label follows from the words that praise or blame.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PRAISE = ["good", "nice", "fast", "warm", "friendly", "lovely"]
BLAME = ["bad", "awful", "slow", "cold", "rude", "dirty"]
OTHER = ["the", "food", "was", "very", "service", "place", "staff", "we", "came", "on", "a", "day"]
LABELS = ["negative", "positive"]
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
WORDS = [*SPECIAL.values(), "</s>", "\n", *LABELS, *PRAISE, *BLAME, *OTHER]

# So that frozen random weights are of some use to what is trained, they are not too small.
LLAMA = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 5,
}
BERT = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES: dict[str, Any] = {
    "Llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)),
    "Qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LLAMA)),
    "Mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**LLAMA)),
    "Gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**LLAMA, head_dim=16)),
    "GPT-2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(WORDS),
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=64,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=0.2,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=5,
        )
    ),
    "GPT-NeoX": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            **{name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
        )
    ),
    "T5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=len(WORDS),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=5,
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
    ),
    "BERT": lambda: transformers.BertForMaskedLM(
        transformers.BertConfig(
            **BERT,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            **STILL,
        )
    ),
    "DistilBERT": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(
            **BERT,
            dim=64,
            hidden_dim=128,
            n_layers=2,
            n_heads=4,
            dropout=0.0,
            attention_dropout=0.0,
            seq_classif_dropout=0.0,
        )
    ),
    "RoBERTa": lambda: transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(
            **BERT,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            **STILL,
        )
    ),
}
CHOOSING = ("BERT", "DistilBERT", "RoBERTa")


def save_model(family: str, folder: Path) -> Path:
    """Writes a model of a family with its tokenizer, the same every time."""
    transformers.set_seed(0)
    FAMILIES[family]().save_pretrained(folder)
    tokenizer_for(family).save_pretrained(folder)
    return folder


def tokenizer_for(family: str) -> PreTrainedTokenizerFast:
    """A word is a token; what is put around a text is as the family has it."""
    numbers = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    around = {"T5": "$A </s>", **dict.fromkeys(CHOOSING, "[CLS] $A [SEP]")}.get(family, "$A")
    names = [name for name in around.split() if name != "$A"]
    made.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(name, numbers[name]) for name in names]
    )
    special = dict(SPECIAL) if family in CHOOSING else {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if family not in CHOOSING:
        special["eos_token"] = "</s>"
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=62, **special)


def reviews(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """So many unlike texts with their labels, of which about 6 of 10 are positive."""
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        label = LABELS[draw.random() < 0.6]
        words = draw.choices(OTHER, k=draw.randint(2, 6))
        for _ in range(draw.randint(2, 3)):
            said = draw.choice(PRAISE if label == "positive" else BLAME)
            words.insert(draw.randint(0, len(words)), said)
        found.setdefault(" ".join(words), label)
    return list(found.items())


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """A CSV of {text, label}."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path
