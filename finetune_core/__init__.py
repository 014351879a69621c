"""Fine-tuning of language models as a library: no orchestrator, no web, and no torch on import."""

from finetune_core.config.settings import set_library_defaults

set_library_defaults()

from finetune_core.config import ConfigBuilder, PipelineConfig  # noqa: E402 - the defaults first
from finetune_core.data.dataset import Dataset  # noqa: E402
from finetune_core.data.pipeline import (  # noqa: E402
    DataPipeline,
    format_instruction_dataset,
    prepare_dataset,
    quick_load,
)
from finetune_core.data.sanitizer import DatasetSanitizer, ValidationResult  # noqa: E402
from finetune_core.evaluation.benchmark import (  # noqa: E402
    BenchmarkReport,
    BenchmarkResult,
    BenchmarkRunner,
)
from finetune_core.evaluation.evaluator import (  # noqa: E402
    ComparisonResult,
    EvaluationResult,
    Evaluator,
)
from finetune_core.models.loading import load_model_and_tokenizer  # noqa: E402
from finetune_core.trainers.api import (  # noqa: E402
    FullFineTuner,
    InstructionTrainer,
    LoRATrainer,
    QLoRATrainer,
    TrainerFactory,
    TrainingResult,
)
from finetune_core.version import __version__  # noqa: E402

__all__ = [
    "BenchmarkReport",
    "BenchmarkResult",
    "BenchmarkRunner",
    "ComparisonResult",
    "ConfigBuilder",
    "DataPipeline",
    "Dataset",
    "DatasetSanitizer",
    "EvaluationResult",
    "Evaluator",
    "FullFineTuner",
    "InstructionTrainer",
    "LoRATrainer",
    "PipelineConfig",
    "QLoRATrainer",
    "TrainerFactory",
    "TrainingResult",
    "ValidationResult",
    "__version__",
    "format_instruction_dataset",
    "load_model_and_tokenizer",
    "prepare_dataset",
    "quick_load",
]
