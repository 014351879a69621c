"""SingleDash: a command whose long options may also be written with a single dash."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from itertools import islice
from typing import Any

from typer.core import TyperCommand

CLOSE = 0.8  # how alike a misspelt option and the one that was meant are, of 1


class SingleDash(TyperCommand):
    """Reads `-lora-rank 16` as `--lora-rank 16`; short options work as ever.

    What is neither a long option nor begins like a short one is taken for a long one that was
    misspelt, so that the parser says which may have been meant.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Gives every long option its second dash, and lets the parser go on."""
        takes_value = {
            option: not getattr(parameter, "is_flag", False)
            for parameter in self.get_params(ctx)
            for option in parameter.opts
            if option.startswith("-")
        }
        return super().parse_args(ctx, [*_with_two_dashes(args, takes_value)])


def _with_two_dashes(args: list[str], takes_value: dict[str, bool]) -> Iterator[str]:
    left = iter(args)
    for argument in left:
        if argument == "--":
            yield argument
            break
        name, equals, _ = argument.partition("=")
        if _is_long(name, takes_value):
            name, argument = f"-{name}", f"-{argument}"
        yield argument
        if takes_value.get(name) and not equals:  # what follows is a value, whatever it looks like
            yield from islice(left, 1)
    yield from left


def _is_long(name: str, known: dict[str, bool]) -> bool:
    """Whether a word with a single dash is, or was meant to be, a long option."""
    if len(name) < 3 or name.startswith("--") or not name.startswith("-") or name[1].isdigit():
        return False
    if f"-{name}" in known:
        return True
    return name[:2] not in known or bool(get_close_matches(f"-{name}", known, cutoff=CLOSE))
