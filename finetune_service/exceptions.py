"""The errors of finetune_service, beside those of finetune_core.

    FineTuneError
    ├── InputError
    │   ├── InvalidValueError         one field of a request
    │   ├── NotFoundError             not there, or another organisation's
    │   ├── ConflictError             not in the state that it is in
    │   └── TooLargeError
    └── UnavailableError              a server that is needed does not answer

`finetune_service.api.errors` says which HTTP status each has.
"""

from __future__ import annotations

from finetune_core.exceptions import FineTuneError, InputError


class InvalidValueError(InputError):
    """A field of a request has a value that it cannot have.

    Args:
        message: What was wrong.
        param: The field.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class NotFoundError(InputError):
    """There is no such thing, or it is another organisation's: nobody can tell which."""


class ConflictError(InputError):
    """What is asked cannot be done in the state that the thing is in."""


class TooLargeError(InputError):
    """More bytes than are allowed."""


class UnavailableError(FineTuneError):
    """A server that is needed does not answer; the same request may succeed later."""
