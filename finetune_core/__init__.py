"""Fine-tuning of language models as a library: no orchestrator, no web, and no torch on import."""

from finetune_core.config.settings import set_library_defaults

set_library_defaults()

from finetune_core.config import ConfigBuilder, PipelineConfig  # noqa: E402 - the defaults first
from finetune_core.data.dataset import Dataset  # noqa: E402
from finetune_core.version import __version__  # noqa: E402

__all__ = ["ConfigBuilder", "Dataset", "PipelineConfig", "__version__"]
