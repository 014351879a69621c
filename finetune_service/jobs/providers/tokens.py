"""How many tokens a conversation has: by a tokenizer's chat template, or by OpenAI's rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune_core.config.sections import TokenizationConfig
from finetune_core.data.formats import Message
from finetune_core.exceptions import InputError

PER_MESSAGE, PER_REPLY = 3, 3  # OpenAI's cookbook, "How to count tokens with tiktoken"
HINT = (
    "Set TIKTOKEN_CACHE_DIR to a folder that holds its encodings, or name the folder of a "
    "tokenizer that counts as the model does."
)


def by_template(
    folder: Path, config: TokenizationConfig, messages: Sequence[Mapping[str, str]]
) -> int:
    """Counts as a job of ours does: the messages as one text, without anything added.

    Args:
        folder: The tokenizer's.
        config: Says which template.
        messages: The turns.

    Raises:
        ModelLoadError: The tokenizer does not load.
        TemplateError: The template refuses the messages.
    """
    from finetune_core.data.templates import make_renderer

    tokenizer = _tokenizer(folder)
    turns = [
        Message(role=turn["role"], content=turn["content"], trained=False, tool_calls=None)
        for turn in messages
    ]
    text = make_renderer(config.template, tokenizer).render(turns)
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def by_tiktoken(model: str, messages: Sequence[Mapping[str, str]]) -> int:
    """Counts as OpenAI's models do: each message has three tokens more, and the reply has three.

    Raises:
        InputError: The model's encoding is not known, or cannot be had.
    """
    encoding = _encoding(model)
    # A text that looks like a special token is a text all the same.
    texts = [value for turn in messages for value in (turn["role"], turn["content"])]
    counts = [len(encoding.encode(text, disallowed_special=())) for text in texts]
    return sum(counts) + PER_MESSAGE * len(messages) + PER_REPLY


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Any:
    from finetune_core.data.encode import load_tokenizer

    return load_tokenizer(folder)


@lru_cache(maxsize=1)
def _encoding(model: str) -> Any:
    import tiktoken

    try:
        return tiktoken.encoding_for_model(model)
    except KeyError:
        problem = f"nobody knows how {model} counts its tokens"
        raise InputError(problem, hint="Name the folder of its tokenizer.") from None
    except Exception as error:  # what its download stumbles over is of many libraries
        problem = f"the encoding of {model} cannot be fetched ({type(error).__name__})"
        raise InputError(problem, hint=HINT) from None
