"""Messages → text, as the model will see them at inference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from finetune_core.data.formats import TEXT, Message, user
from finetune_core.exceptions import TemplateError
from finetune_core.types import Template

MOST_TOOLS = 1000  # renderers that are kept

# The words of Stanford Alpaca (Taori et al. 2023), as many models were trained with.
ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately "
    "completes the request."
)
INSTRUCTION, INPUT, RESPONSE = (f"### {name}:\n" for name in ("Instruction", "Input", "Response"))


class Renderer(Protocol):
    """Writes messages as one text."""

    name: str
    begin: str
    end: str

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """The text of the messages.

        Args:
            messages: The turns.
            generation_prompt: Whether the text ends where an assistant's turn would begin.
        """

    def with_tools(self, tools: str | None) -> Renderer:
        """The renderer of a conversation that may call tools.

        Args:
            tools: A JSON list of them, or nothing.

        Raises:
            TemplateError: The texts have no place for tools.
        """


class ChatRenderer:
    """The tokenizer's own chat template, unchanged."""

    name = Template.CHAT.value
    begin = ""  # the template writes what starts a text

    def __init__(self, tokenizer: Any, tools: str | None = None) -> None:
        self.end: str = tokenizer.eos_token
        self._tokenizer = tokenizer
        self._tools = json.loads(tools) if tools else None
        self._others: dict[str, ChatRenderer] = {}  # by their tools, which rows often share

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """The messages in the template; a template that refuses them says why."""
        turns: list[dict[str, Any]] = []
        for message in messages:
            turns.append({"role": message["role"], "content": message["content"]})
            if message["tool_calls"]:
                turns[-1]["tool_calls"] = json.loads(message["tool_calls"])
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns,
                tools=self._tools,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except Exception as error:  # a template is code: it raises whatever it stumbles over
            raise TemplateError(f"the chat template refuses the messages: {error}") from error
        return text

    def with_tools(self, tools: str | None) -> ChatRenderer:
        """The renderer that also writes the tools, where the template does."""
        if tools is None:
            return self
        if tools in self._others:
            return self._others[tools]
        renderer = ChatRenderer(self._tokenizer, tools)
        probe = [user("?")]
        if renderer.render(probe) == self.render(probe):
            raise TemplateError("the chat template has no place for the tools that the row names")
        if len(self._others) == MOST_TOOLS:
            self._others.clear()
        self._others[tools] = renderer
        return renderer


class PlainRenderer:
    """For models without a chat template: the turns line by line, the end token after answers.

    A row that is one plain text is that text, whatever the template.
    """

    name = Template.PLAIN.value

    def __init__(self, tokenizer: Any) -> None:
        self.end: str = tokenizer.eos_token
        first = tokenizer("").input_ids[:1]
        starts = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
        self.begin: str = tokenizer.bos_token if starts else ""

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """`prompt`, a newline, `answer`, the end token."""
        parts = [self.begin]
        for message in messages:
            parts.append(message["content"])
            parts.append(self.end if message["role"] in ("assistant", TEXT) else "\n")
        return "".join(parts)

    def with_tools(self, tools: str | None) -> PlainRenderer:
        """Itself: plain text has no place for tools."""
        if tools is not None:
            raise TemplateError("plain text has no place for the tools that the row names")
        return self


class AlpacaRenderer(PlainRenderer):
    """Plain text in Alpaca's words; a system message takes the place of the first sentences."""

    name = "alpaca"

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """What is to be done, then each instruction and each response under its heading."""
        parts = [] if messages[0]["role"] == "system" else [ALPACA.format(paired="")]
        for message in messages:
            if message["role"] == "assistant":
                parts.append(f"{RESPONSE}{message['content']}{self.end}")
            else:
                heading = "" if message["role"] == "system" else INSTRUCTION
                parts.append(f"{heading}{message['content']}")
        if generation_prompt:
            parts.append(RESPONSE)
        return self.begin + "\n\n".join(parts)


def make_renderer(template: Template, tokenizer: Any) -> Renderer:
    """The renderer that a config asks for.

    Raises:
        TemplateError: The tokenizer has no chat template where one is asked for, or no end
            token for the model to stop at.
    """
    if tokenizer.eos_token is None:
        raise TemplateError("the tokenizer has no end token, so an answer could never end")
    if template is Template.PLAIN or (template is Template.AUTO and not tokenizer.chat_template):
        return PlainRenderer(tokenizer)
    if template is Template.INSTRUCTION and not tokenizer.chat_template:
        return AlpacaRenderer(tokenizer)
    if not tokenizer.chat_template:
        raise TemplateError(
            "the tokenizer has no chat template", hint="Set tokenization.template to plain."
        )
    return ChatRenderer(tokenizer)
