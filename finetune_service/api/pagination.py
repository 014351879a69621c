"""Pages of a list: `{object: "list", data, has_more, first_id, last_id}`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

from finetune_service.api.schemas.answer import Answer

T = TypeVar("T", bound=BaseModel)


class Page(Answer, Generic[T]):
    """One page. The next one is asked for by `after=last_id`."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool
    first_id: str | None
    last_id: str | None


def page(items: Iterable[T], limit: int) -> Page[T]:
    """The first items as a page; one more is looked at, so that `has_more` is exact.

    Args:
        items: What follows `after`, in order; they are taken only as far as needed.
        limit: The items of a page.
    """
    found = list(islice(items, limit + 1))
    data = found[:limit]
    ids = [str(item.id) for item in data]  # type: ignore[attr-defined]
    return Page(
        data=data,
        has_more=len(found) > limit,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
    )
