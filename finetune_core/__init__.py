"""Fine-tuning of language models as a library: no orchestrator, no web, and no torch on import."""

from finetune_core.config.settings import set_library_defaults
from finetune_core.version import __version__

set_library_defaults()

__all__ = ["__version__"]
