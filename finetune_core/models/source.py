"""Where a base model's files are, found without loading it and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import ModelNotFoundError
from finetune_core.storage import digest_file, digest_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
)
SMALL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)
WEIGHTS = ("*.safetensors", "*.bin")
# What transformers fetches of a model on the hub: these, or else those.
SAFETENSORS, PICKLED = "model*.safetensors*", "pytorch_model*.bin*"


def find_model(config: ModelConfig) -> Path:
    """The folder that holds a model's config and tokenizer; its weights may be elsewhere still.

    Args:
        config: Names a folder, or a model on the hub, whose small files are then fetched.

    Raises:
        ModelNotFoundError: There is neither such a folder nor such a model.
    """
    return _find(config, SMALL_FILES)


def fetch_model(config: ModelConfig) -> Path:
    """The folder that holds all of a model, its weights too; raises as `find_model`.

    Args:
        config: Names a folder, or a model on the hub, which is then fetched.
    """
    for weights in (SAFETENSORS, PICKLED):
        folder = _find(config, (*SMALL_FILES, weights))
        if holds_weights(folder):
            return folder
    raise ModelNotFoundError(
        f"{config.name} holds no weights: no file is {' or '.join(WEIGHTS)}",
        hint="Give a folder that save_pretrained wrote, or a model's id on the hub.",
    )


def holds_weights(folder: Path) -> bool:
    """Whether there are weights in a folder: of a hub's model, there may be small files alone."""
    return any(True for pattern in WEIGHTS for _ in folder.glob(pattern))


def _find(config: ModelConfig, files: Sequence[str]) -> Path:
    folder = Path(config.name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(
                f"the folder {folder} holds no model: it has no config.json",
                hint="Give a folder that save_pretrained wrote, by --model.",
            )
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                config.name,
                revision=config.revision,
                allow_patterns=list(files),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = type(error).__name__
        raise ModelNotFoundError(
            f"there is no folder {config.name}, and no such model on the hub or in its cache "
            f"({reason})",
            hint="Give a model's folder, or its id on the hub, by --model.",
        ) from error


def tokenizer_folder(adapter: Path, base: Path) -> Path:
    """The folder of an adapter's tokenizer: its own, where training has put one there."""
    return adapter if any((adapter / name).is_file() for name in TOKENIZER_FILES) else base


def digest_tokenizer(folder: Path) -> str:
    """The sha256 over a model's tokenizer files, the chat template among them."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return digest_json({path.name: digest_file(path) for path in files})


def revision_of(config: ModelConfig, folder: Path) -> str | None:
    """The commit of a model that the hub gave; of a folder, what its config names.

    Args:
        config: Names the model.
        folder: Where `find_model` found it.
    """
    fetched = not Path(config.name).is_dir() and folder.parent.name == "snapshots"
    return folder.name if fetched else config.revision


def digest_weights(config: ModelConfig) -> str:
    """The sha256 over a model's config and weights; raises as `find_model`."""
    return digest_model(find_model(config))


def digest_model(folder: Path) -> str:
    """The sha256 over the config and the weights in a folder."""
    return digest_files(folder, ("config.json", *WEIGHTS))


def digest_files(folder: Path, patterns: Sequence[str]) -> str:
    """The sha256 over the names and contents of some of a folder's files."""
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    return digest_json({file.name: digest_file(file) for file in files})
