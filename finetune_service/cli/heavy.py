"""Heavy work of a command, in a child process: the command line itself loads no torch."""

from __future__ import annotations

import uuid
from typing import TypeVar

from finetune_core import child
from finetune_core.jobs import organization_folder
from finetune_core.types import Record
from tasks.terminal import Terminal

R = TypeVar("R", bound=Record)


def run_heavy(
    target: str,
    request: Record,
    result_type: type[R],
    *,
    organization: str,
    kind: str,
    terminal: Terminal,
) -> R:
    """Runs a function in a child process; raises as `child.run`.

    Args:
        target: The function, as `module:name`.
        request: What it is given.
        result_type: The record that it returns.
        organization: Whose folder gets its events and its log.
        kind: The folder of works of this kind.
        terminal: Shows its events.
    """
    # One folder each: two at a time would hear each other's results.
    folder = organization_folder(organization) / kind / uuid.uuid4().hex
    return child.run(target, request, result_type, folder=folder, on_event=terminal)
