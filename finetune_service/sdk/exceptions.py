"""The errors of the SDK, beside those of finetune_service.

FineTuneError
├── InputError
│   ├── ApiKeyError           no key, or one that the API does not know
│   └── JobNotStartedError    asked of a job that has not been started
└── ApiError                  the API failed, or what answers is no such API

Those that an answer of the API stands for are in `finetune_service.exceptions`.
"""

from __future__ import annotations

from finetune_core.exceptions import FineTuneError, InputError


class ApiKeyError(InputError):
    """There is no key, or the API does not know it."""


class JobNotStartedError(InputError):
    """The job has not been started, so there is nothing to ask it."""


class ApiError(FineTuneError):
    """The API failed, or answered what it never should."""
