"""The shipped tokenizer, tiny ones of every kind that models have, and rows of tokens."""

from __future__ import annotations

import copy
import json
from functools import cache
from itertools import groupby

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from finetune_core.config import TokenizationConfig
from finetune_core.data.encode import Encoder, load_tokenizer
from finetune_core.data.formats import Conversation
from finetune_core.data.masks import IGNORED
from tests.conftest import ROOT
from tests.finetune_core.data.turns import turn

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.fixture
def tokenizer(tiny_base):
    """A fresh one for each test: some give it another template."""
    return load_tokenizer(tiny_base)


@cache
def texts():
    """What the tiny tokenizers learn their words from."""
    lines = (ROOT / "examples" / "data" / "train.jsonl").read_text().splitlines()[:300]
    rows = [json.loads(line) for line in lines]
    prose = "[INST] system user [/INST] assistant: Be brief. yes, the answer is a desk\n" * 50
    return [prose, *(" ".join(row.values()) for row in rows)]


def byte_level(prefix=False, trim=False):
    """As GPT-2 and most after it."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made.post_processor = processors.ByteLevel(add_prefix_space=prefix, trim_offsets=trim)
    return made


def metaspace(scheme):
    """As Llama 2 and T5: a blank becomes the beginning of the word behind it."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    made.train_from_iterator(
        texts(),
        trainers.UnigramTrainer(
            vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        ),
    )
    return begins(made)


def fallback():
    """As Llama 2 in its first form: what it has no token for becomes bytes."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.train_from_iterator(
        [word for text in texts() for word in text.split()],
        trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL + BYTES, show_progress=False),
    )
    return begins(made)


def word_piece():
    """As BERT: lower case, and no blank is kept."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    made.train_from_iterator(
        texts(),
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False),
    )
    return made


def begins(made):
    """Has every text begin with `<s>`."""
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return made


KINDS = {
    "byte level": byte_level,
    "byte level, prefix": lambda: byte_level(prefix=True),
    "byte level, trimmed": lambda: byte_level(trim=True),
    "byte level, prefix, trimmed": lambda: byte_level(prefix=True, trim=True),
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "byte fallback": fallback,
    "word piece": word_piece,
}


@cache
def _made(kind):
    from transformers import PreTrainedTokenizerFast

    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), **names)


def tiny(kind, chat_template=None):
    """A tiny tokenizer of a kind, fresh for each who asks."""
    made = copy.deepcopy(_made(kind))
    made.chat_template = chat_template
    return made


def chat(*contents):
    """A conversation in which user and assistant speak by turns."""
    return [turn(("user", "assistant")[at % 2], content) for at, content in enumerate(contents)]


def tokens_of(tokenizer, messages, **config):
    """The ids and labels of a row that fits."""
    encoder = Encoder(tokenizer, TokenizationConfig(**{"template": "chat"} | config))
    (((tokens,), finding),) = encoder.encode([Conversation(messages)], [1])
    assert finding is None
    return tuple(each.tolist() for each in tokens)


def runs(ids, flags):
    """The unbroken runs of flagged tokens, each with the place of its first."""
    groups = groupby(enumerate(zip(ids, flags, strict=True)), key=lambda each: bool(each[1][1]))
    found = [list(group) for flag, group in groups if flag]
    return [(run[0][0], [token for _, (token, _) in run]) for run in found]


def trained(ids, labels):
    """The unbroken runs of trained tokens, each with the place of its first."""
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    return runs(ids, [label != IGNORED for label in labels])
