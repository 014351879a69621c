"""Tracking and registry behind one protocol, so that nothing else knows MLflow."""

from finetune_core.config.settings import Settings
from finetune_core.hub.ports import Hub


def open_hub(organization: str, settings: Settings | None = None) -> Hub:
    """The hub of an organisation, on MLflow."""
    from finetune_core.hub.mlflow_hub import MlflowHub

    return MlflowHub(settings or Settings(), organization)
