"""Trainers of a model that is loaded already, for use from Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

from finetune_core.child import Emit
from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.sections import LoraConfig, TokenizationConfig, TrainingConfig
from finetune_core.exceptions import Fault, IncompatibleConfigError, OutputError, TrainingError
from finetune_core.jobs import check_writable, organization_folder
from finetune_core.models.tasks import CHOOSES, task_of
from finetune_core.storage import digest_json, write_json
from finetune_core.trainers.checkpoints import Checkpoints, choose, finished_training
from finetune_core.trainers.methods import METHODS
from finetune_core.trainers.rows import Splits, digest_tokens, make_splits
from finetune_core.types import Record, Task, TrainedCheckpoints, TrainingMethod, new_job_id

if TYPE_CHECKING:
    from finetune_core.trainers.rows import Rows

IDENTITY = "training.json"  # which training a folder holds
CHECKPOINTS, ADAPTER = "checkpoints", "adapter"
NUMBERS = 8  # of each weight, by which a model is told from another


class TrainingResult(Record):
    """What a training has brought.

    Attributes:
        output_dir: Holds the adapter, or the whole model, and its tokenizer.
        train_loss: The last that was logged.
        valid_loss: Of the kept checkpoint; nothing where no row was held out.
        steps_completed: Optimizer steps.
        kept_step: The step whose checkpoint is in `output_dir`.
        trained_tokens: Tokens that the model has read, those of all epochs together.
        elapsed_seconds: With making tokens of rows.
    """

    output_dir: Path
    train_loss: float
    valid_loss: float | None
    steps_completed: int
    kept_step: int
    trained_tokens: int
    elapsed_seconds: float


class BaseTrainer:
    """Trains a loaded model as a job does: the same rows, tokens, steps and checkpoints.

    The checkpoint of the lowest validation loss is kept. `training_config.output_dir` gets it as
    `adapter/`, and `checkpoints/`, from which a training that was stopped goes on; without it, that
    is a new folder under `FINETUNE_HOME`.

    The model is trained in place: afterwards it is the kept one, ready to be asked; in bf16, its
    frozen weights stay cast. So a trainer trains once.

    Args:
        model: A model of transformers'. The methods that train an adapter add it to this very
            object. One that chooses has been loaded with the labels of the rows.
        tokenizer: The model's, a fast one of transformers'.
        training_config: How the model is trained; the class of the trainer is its method.
        lora_config: The adapter.
        tokenization: How rows become tokens; without it, as a job does by default.
        validation_ratio: The share of rows held out where no validation rows are given. Without
            it, that is `dataset.validation_ratio` (0.1), and nothing of rows that are tokens
            already. Where nothing is held out, as with 0, the last checkpoint is kept.
        emit: Hears of each logged step, validation and checkpoint.

    Raises:
        ConfigError: Settings exclude each other, or the model does not go with the method.
    """

    method: ClassVar[TrainingMethod]

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        training_config: TrainingConfig | None = None,
        lora_config: LoraConfig | None = None,
        *,
        tokenization: TokenizationConfig | None = None,
        validation_ratio: float | None = None,
        emit: Emit | None = None,
    ) -> None:
        _check_model(model, self.method)
        training = training_config or TrainingConfig()
        if training.num_processes > 1:
            problem = "is for jobs: here the calling process trains, by itself"
            raise IncompatibleConfigError([Fault("training.num_processes", problem)])
        share = {"validation_ratio": validation_ratio} if validation_ratio else {}
        self._config = PipelineConfig.parse(
            {
                "model": _settings(model),
                "dataset": {"path": "-", **share},
                "tokenization": tokenization or TokenizationConfig(),
                "training": training.model_copy(update={"method": self.method}),
                "lora": lora_config or LoraConfig(),
            }
        )
        self._ratio = validation_ratio
        self._model, self._digest = model, _digest_model(model)
        self._tokenizer = tokenizer
        self._emit = emit or _ignore
        self._used = False

    def train(self, dataset: Rows | Mapping[str, Rows]) -> TrainingResult:
        """Trains, or goes on with the training that the output folder holds since it was stopped.

        It goes on if settings, tokens and weights are the same. Where it has ended already, its
        result is given, and the model stays as it is.

        Args:
            dataset: Rows of any format that a job knows, in memory or in a file; they are mended
                and left out as a job's are. Or tokens: a dataset with `input_ids` and `labels`;
                without labels, all tokens are learned. A mapping of `train` and `validation` (a
                `DatasetDict`, what `prepare_dataset` gives) names the held-out rows too.

        Raises:
            InputError: The rows cannot be read, the adapter does not fit the model, or the folder
                holds another training.
            TrainingError: The loop failed, or the model has been trained before.
        """
        start = perf_counter()
        splits = self._splits(dataset)
        if splits.validation is None and self._config.training.early_stopping_patience:
            problem = "needs rows that are held out, and there are none"
            raise IncompatibleConfigError([Fault("training.early_stopping_patience", problem)])
        output = self._open_output(splits)
        trained = finished_training(output / CHECKPOINTS) or self._run(splits, output / CHECKPOINTS)
        validated = splits.validation is not None
        chosen = choose(trained, output / ADAPTER, validated=validated)
        return TrainingResult(
            output_dir=chosen.folder,
            train_loss=trained.train_loss,
            valid_loss=chosen.valid_loss,
            steps_completed=trained.steps,
            kept_step=chosen.step,
            trained_tokens=trained.trained_tokens,
            elapsed_seconds=perf_counter() - start,
        )

    def _splits(self, dataset: Rows | Mapping[str, Rows]) -> Splits:
        return make_splits(dataset, self._model, self._tokenizer, self._config, self._ratio)

    def _open_output(self, splits: Splits) -> Path:
        """Makes the folder of this training, or finds it.

        Raises:
            OutputError: It cannot be written, or holds another training.
        """
        training = self._config.training
        folder = training.output_dir
        if folder is None:
            folder = organization_folder("local") / "trainings" / new_job_id()
        check_writable(folder)
        identity = {
            "training": training.model_dump(mode="json", exclude={"output_dir"}),
            "lora": self._config.lora.model_dump(mode="json"),
            "model": self._digest,
            "train": digest_tokens(splits.train),
            "validation": splits.validation and digest_tokens(splits.validation),
        }
        file = folder / IDENTITY
        if not (Checkpoints(folder / CHECKPOINTS).all() or (folder / ADAPTER).exists()):
            write_json(file, identity)  # over that of one that has brought nothing
            return folder
        known = json.loads(file.read_text()) if file.is_file() else {}
        if other := [name for name, value in identity.items() if known.get(name) != value]:
            raise OutputError(
                f"{folder} holds another training, which differs in: {', '.join(other)}",
                hint="Give another training.output_dir, or remove this one.",
            )
        return folder

    def _run(self, splits: Splits, output: Path) -> TrainedCheckpoints:
        import transformers

        from finetune_core.trainers.engine import assemble, run

        if self._used:
            raise TrainingError(
                "the model of this trainer has been trained already",
                hint="Load it anew, and make a new trainer for it.",
            )
        self._used = True
        training, lora = self._config.training, self._config.lora
        transformers.set_seed(training.seed)  # before the adapter's weights are drawn
        with _lent(self._model):
            loop = assemble(
                METHODS[self.method].prepare(self._model, lora, self._tokenizer),
                self._tokenizer,
                splits.train,
                splits.validation,
                training=training,
                lora=lora,
                output=output,
                emit=self._emit,
            )
            loop.remove_callback(transformers.PrinterCallback)  # whoever wants to hear has `emit`
            trained = run(loop, training, output)
            best = Checkpoints(output).best_as_written()
            if best and best.step != trained.steps:
                loop._load_from_checkpoint(str(best.folder))
            loop.accelerator.unwrap_model(loop.model, keep_fp32_wrapper=False)
        return trained


class LoRATrainer(BaseTrainer):
    """Trains a LoRA adapter on a frozen model.

    Example:
        >>> model, tokenizer = load_model_and_tokenizer(ModelConfig(name="examples/tiny_base"))
        >>> trainer = LoRATrainer(model, tokenizer, TrainingConfig(output_dir="out"), LoraConfig())
        >>> trainer.train("examples/data/train.jsonl").output_dir
        PosixPath('out/adapter')
    """

    method = TrainingMethod.LORA


class QLoRATrainer(BaseTrainer):
    """Trains a LoRA adapter on a model of 4 or 8 bits, as `load_model_and_tokenizer` loads it."""

    method = TrainingMethod.QLORA


class InstructionTrainer(BaseTrainer):
    """Trains a LoRA adapter on instructions, in Alpaca's words where there is no chat template."""

    method = TrainingMethod.INSTRUCTION_TUNING


class FullFineTuner(BaseTrainer):
    """Trains every weight; there is no adapter.

    Warns:
        ResourceWarning: While it trains, where the model has more than 1B parameters.
    """

    method = TrainingMethod.FULL_FINETUNING

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        training_config: TrainingConfig | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, training_config, **options)


TRAINERS: dict[TrainingMethod, type[BaseTrainer]] = {
    trainer.method: trainer
    for trainer in (LoRATrainer, QLoRATrainer, InstructionTrainer, FullFineTuner)
}


class TrainerFactory:
    """Finds the trainer of a method.

    Example:
        >>> result = TrainerFactory.train(
        ...     model, tokenizer, "rows.jsonl", TrainingConfig(method="qlora"), LoraConfig()
        ... )
        >>> result.output_dir, result.train_loss, result.steps_completed
    """

    @staticmethod
    def train(
        model: Any,
        tokenizer: Any,
        dataset: Rows | Mapping[str, Rows],
        training_config: TrainingConfig | None = None,
        lora_config: LoraConfig | None = None,
        **options: Any,
    ) -> TrainingResult:
        """Trains by `training_config.method`.

        Args:
            model: As the trainers take it.
            tokenizer: The model's.
            dataset: As `BaseTrainer.train` takes it.
            training_config: The method, and how the model is trained.
            lora_config: The adapter; `full_finetuning` has none and does not look here.
            options: What else the trainers take.

        Raises:
            FineTuneError: As the trainers raise it.
        """
        training = training_config or TrainingConfig()
        if training.method is not TrainingMethod.FULL_FINETUNING:
            options["lora_config"] = lora_config
        trainer = TRAINERS[training.method](model, tokenizer, training, **options)
        return trainer.train(dataset)


def _check_model(model: Any, method: TrainingMethod) -> None:
    """Refuses a model that a method cannot train.

    Raises:
        IncompatibleConfigError: It cannot choose, has an adapter, or is quantised where it should
            not be, or not where it should.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    quantized, problem = getattr(model, "is_quantized", False), None
    name = type(model).__name__
    if task_of(model) is Task.CLASSIFICATION and not name.endswith(CHOOSES):
        problem = (
            f"is a {name}, which has no head that chooses; load it by "
            "load_model_and_tokenizer(ModelConfig(name=...), labels=[...])"
        )
    elif any(isinstance(part, BaseTunerLayer) for part in model.modules()):
        problem = "has an adapter already; merge it first, or load the base anew"
    elif method is TrainingMethod.QLORA and not quantized:
        problem = (
            "is not quantised, as qlora needs it; load it by "
            "load_model_and_tokenizer(ModelConfig(name=..., quantization_bits=4))"
        )
    elif method is TrainingMethod.FULL_FINETUNING and quantized:
        problem = "is quantised, so its weights cannot be trained; qlora trains an adapter on it"
    if problem:
        raise IncompatibleConfigError([Fault("model", problem)])


def _settings(model: Any) -> dict[str, Any]:
    """A loaded model as the config's section, in what other sections could exclude."""
    dtype = str(model.dtype).removeprefix("torch.")
    return {
        "quantization_bits": 4 if getattr(model, "is_loaded_in_4bit", False) else 8,
        "torch_dtype": dtype if dtype == "float16" else "auto",
    }


def _digest_model(model: Any) -> str:
    """Tells a model from another, and from itself after a training, by some numbers of it."""
    return digest_json(
        {
            name: [list(weight.shape), weight.detach().flatten()[:NUMBERS].tolist()]
            for name, weight in model.named_parameters()
        }
    )


@contextmanager
def _lent(model: Any) -> Iterator[None]:
    """Gives a model back as it can be asked: with its cache, and attention that can use it."""
    cache, attention = model.config.use_cache, model.config._attn_implementation
    try:
        yield
    finally:
        model.config.use_cache = cache
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        model.eval()


def _ignore(_: object) -> None:
    """Nobody listens to the events."""
