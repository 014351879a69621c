"""An API whose job service needs the files that `needed` names."""

from __future__ import annotations

from fastapi import FastAPI

from finetune_service.api.app import create_app as create


def create_app() -> FastAPI:
    app = create()
    files = app.state.services.files
    files.in_use = lambda organization, file_id: (
        f"{organization}/{file_id}" in (files.home / "needed").read_text()
    )
    return app
