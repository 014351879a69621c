"""Serves the API: python -m finetune_service.api."""

from __future__ import annotations

import logging

import uvicorn

from finetune_service.api.app import create_app
from finetune_service.api.settings import ApiSettings

if __name__ == "__main__":
    settings = ApiSettings()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    uvicorn.run(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        server_header=False,
        # Longer than clients keep an idle connection: none sends into one that is being closed.
        timeout_keep_alive=75,
        # Streams of a stopped server are cut, not waited for; what they did is whole or not there.
        timeout_graceful_shutdown=10,
    )
