"""The errors of the stack.

FineTuneError
├── InputError                    exit code 2
│   ├── PortTakenError
│   ├── PostgresMissingError
│   └── StackDownError
└── StackError                    exit code 1
    └── PartFailedError
"""

from __future__ import annotations

from finetune_core.exceptions import FineTuneError, InputError


class PortTakenError(InputError):
    """Another program listens where a part of the stack should."""


class PostgresMissingError(InputError):
    """There is no PostgreSQL on this machine that the stack could start."""


class StackDownError(InputError):
    """The stack does not run, and the command needs it."""


class UnwritableError(InputError):
    """A setting has a value that cannot be written for the supervisor."""


class StackError(FineTuneError):
    """The stack, or what it is built on, refused."""


class PartFailedError(StackError):
    """A part of the stack ended, or did not become healthy in time."""
