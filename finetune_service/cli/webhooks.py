"""finetune-cli org webhook: where an organisation is told that a job has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from finetune_service.api.settings import ApiSettings
from finetune_service.exceptions import NotFoundError
from finetune_service.jobs.webhooks import Webhooks
from finetune_service.organizations import Organizations
from flows import options
from flows.command import print_json, report_errors

app = typer.Typer(no_args_is_help=True, help="Say where to tell that a job has ended.")

OrganizationName = Annotated[str, typer.Argument(help="The organisation.")]


@app.command("set")
def set_webhook(
    organization: OrganizationName,
    url: Annotated[str, typer.Argument(help="What is told, by a POST; https.")],
    as_json: options.AsJson = False,
) -> None:
    """Have a URL told of each job that ends from now on; its secret is shown once."""

    def work(webhooks: Webhooks) -> None:
        made = webhooks.set(organization, url)
        secret = made.secret.get_secret_value()
        if not as_json:
            Console(stderr=True).print("Its signatures are by this secret, which is shown once:")
        _print({"organization": organization, "url": url, "secret": secret}, secret, as_json)

    _run(organization, work, as_json)


@app.command("show")
def show_webhook(organization: OrganizationName, as_json: options.AsJson = False) -> None:
    """Show which URL is told."""

    def work(webhooks: Webhooks) -> None:
        found = webhooks.get(organization)
        url = found.url if found else None
        _print({"organization": organization, "url": url}, url or "none", as_json)

    _run(organization, work, as_json)


@app.command("remove")
def remove_webhook(organization: OrganizationName, as_json: options.AsJson = False) -> None:
    """Tell nobody any more."""

    def work(webhooks: Webhooks) -> None:
        webhooks.remove(organization)
        _print({"organization": organization, "url": None}, "removed", as_json)

    _run(organization, work, as_json)


def _run(organization: str, work: Callable[[Webhooks], None], as_json: bool) -> None:
    def checked() -> None:
        settings = ApiSettings()
        if organization not in {each.name for each in Organizations(settings.home).list()}:
            raise NotFoundError(f"there is no organisation {organization}")
        work(Webhooks(settings.home, internal=settings.webhooks_internal))

    report_errors(checked, as_json=as_json)


def _print(value: dict[str, Any], shown: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        Console(highlight=False, soft_wrap=True, markup=False).print(shown)
