"""The errors of upkeep.

FineTuneError
├── InputError                    exit code 2
│   ├── UpkeepInUseError
│   ├── HomeInUseError
│   └── DamagedArchiveError
└── DatabaseDumpError             exit code 1
"""

from __future__ import annotations

from finetune_core.exceptions import FineTuneError, InputError


class UpkeepInUseError(InputError):
    """Another gc, backup or restore works on the same home."""


class HomeInUseError(InputError):
    """The home has something in it, or a process works in it, and it would be lost."""


class DamagedArchiveError(InputError):
    """A file is no backup, or not as it was written."""


class DatabaseDumpError(FineTuneError):
    """A database could not be dumped or restored."""
