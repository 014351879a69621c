"""A table for the Prefect UI: what a flow has found that is of no single job."""

from __future__ import annotations

import logging
import re

from prefect.artifacts import create_markdown_artifact

log = logging.getLogger(__name__)


def publish_table(organization: str, name: str, text: str) -> None:
    """Shows Markdown. A Prefect server that is away does no harm.

    Args:
        organization: Whose it is.
        name: What it is of; it is shown under the same key when it is shown again.
        text: The Markdown.
    """
    # Prefect's keys are one space for all, of lower-case letters, digits and dashes.
    key = re.sub(r"[^a-z0-9]+", "-", f"{organization}-{name}".lower()).strip("-")
    try:
        create_markdown_artifact(text, key=key, description=name)
    except Exception as error:
        log.warning("%s is not shown in Prefect: %s", name, error)
