"""The registry as its users see it: models and adapters."""

from finetune_service.hub.catalog import AdapterRecord, Catalog, ModelRecord
from finetune_service.hub.versions import Versions

__all__ = ["AdapterRecord", "Catalog", "ModelRecord", "Versions"]
