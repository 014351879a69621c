"""Export: what was tuned → a folder that other servers start from.

What vLLM takes is said by its own loader: `vllm/lora/peft_helper.py` (PEFTHelper.validate_legal),
`vllm/lora/lora_model.py` (from_local_checkpoint), `vllm/lora/utils.py` (the names of tensors and
`get_supported_lora_modules`) and `vllm/config/lora.py` (MaxLoRARanks).
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from finetune_core.exceptions import ExportError, ModelNotFoundError
from finetune_core.hub import open_hub
from finetune_core.hub.bases import check_loads
from finetune_core.models.merging import ADAPTER_CONFIG, read_adapter
from finetune_core.models.source import TOKENIZER_FILES
from finetune_core.models.tasks import LABELS
from finetune_core.storage import check_free, from_here, new_folder
from finetune_core.types import Record

Format = Literal["vllm", "safetensors"]

WEIGHTS = "adapter_model.safetensors"
MODEL_FILES = (
    ADAPTER_CONFIG,
    "config.json",
    "generation_config.json",
    LABELS,
    *TOKENIZER_FILES,
    "*.tiktoken",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "adapter_model.bin",
)

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # for --max-lora-rank; 1 is newer than the others
HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")  # leave the base as it was
HEADS = ("classifier", "score")
EMBEDDINGS = ("embed_tokens", "lm_head")
# The linear layers of vLLM's classes, by the names that checkpoints have for them.
LAYERS = frozenset(
    """
    q_proj k_proj v_proj o_proj qkv_proj gate_proj up_proj down_proj gate_up_proj out_proj
    q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj in_proj x_proj dt_proj in_proj_qkvz in_proj_ba
    query_key_value dense dense_h_to_4h dense_4h_to_h fc1 fc2 fc_in fc_out c_attn c_proj c_fc
    W_pack wqkv Wqkv wo w1 w2 w3 gate experts query key value query_proj linear_1 linear_2
    """.split()  # noqa: SIM905 - a list would take a line a name
)
TENSOR = re.compile(r"(?:base_model\.model\.)?(.+?)\.(?:lora_(A|B)\.weight|lora_embedding_(A|B))")
SHOWN = 3  # names of tensors in a fault

HINT = "Or merge it into its base, and serve the whole model: --format safetensors."


class ExportReport(Record):
    """What was exported, and how it is served.

    Attributes:
        command: Starts vLLM with it.
        max_lora_rank: The least that vLLM must be given; none for a whole model.
    """

    format: Format
    output: Path
    name: str
    base: str | None
    max_lora_rank: int | None
    command: str


@contextmanager
def opened(model: str, organization: str) -> Iterator[Path]:
    """The folder of a model that a person names, for as long as the block lasts.

    Args:
        model: A folder (of a job, its package or its adapter are meant), or a registered version as
            `NAME@VERSION` or `NAME@ALIAS`, which is fetched.
        organization: Whose registry it is.

    Raises:
        ModelNotFoundError: It names neither, or a base that is registered by reference.
        HubError: The registry has no such version, or is away.
    """
    folder = Path(model)
    if folder.is_dir():
        yield next(filter(_holds_model, (folder, folder / "package", folder / "adapter")), folder)
        return
    name, at, version = model.rpartition("@")
    if not at:
        raise ModelNotFoundError(
            f"there is no folder {model}",
            hint="Give a folder, or a registered version as NAME@VERSION or NAME@ALIAS.",
        )
    hub = open_hub(organization)
    with tempfile.TemporaryDirectory(prefix="finetune-") as temporary:
        yield hub.download(check_loads(hub.get(name, version)), Path(temporary))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no whole model.

    Raises:
        ModelNotFoundError: It holds neither.
    """
    if not _holds_model(folder):
        raise ModelNotFoundError(
            f"the folder {folder} holds no model: it has neither {ADAPTER_CONFIG} nor config.json",
            hint="Give a folder that save_pretrained wrote, as a job's package/ or adapter/.",
        )
    return (folder / ADAPTER_CONFIG).is_file()


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make the model, and nothing that tells of it."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in MODEL_FILES)
    ]


def export_adapter(
    folder: Path, output: Path, name: str, *, base: str | None = None, embeddings: bool = False
) -> ExportReport:
    """Copies an adapter that vLLM loads beside its base.

    Args:
        folder: The adapter's.
        output: Gets the copy; not there yet, or empty.
        name: What the server's clients call it.
        base: What the server loads; without it, the base that the adapter names.
        embeddings: Whether layers over tokens are let through, for bases whose class takes them.

    Raises:
        ExportError: vLLM would not load it; every reason is listed.
        AdapterError: There is no adapter.
        OutputError: The output is there already.
    """
    if not is_adapter(folder):
        raise ExportError(
            f"{folder} holds a whole model, which vLLM serves as it is",
            hint="Copy it with --format safetensors.",
        )
    check_free(output)
    config = read_adapter(folder)
    faults = list(find_faults(config, folder, embeddings=embeddings))
    base = base or config.get("base_model_name_or_path")
    if not base:
        faults.append("it names no base; give it by --base-model")
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        lines = [f"vLLM does not load this adapter: {count}", *(f"  {fault}" for fault in faults)]
        raise ExportError("\n".join(lines), hint=HINT)
    _copy(folder, output)
    rank = least_max_rank(config["r"])
    words = ["vllm", "serve", str(base), "--enable-lora", "--lora-modules"]
    command = shlex.join([*words, f"{name}={from_here(output)}", "--max-lora-rank", str(rank)])
    return ExportReport(
        format="vllm", output=output, name=name, base=base, max_lora_rank=rank, command=command
    )


def export_whole(folder: Path, output: Path, name: str) -> ExportReport:
    """Copies a whole model; raises as `export_adapter`."""
    check_free(output)
    _copy(folder, output)
    return whole_report(output, name, None)


def whole_report(output: Path, name: str, base: str | None) -> ExportReport:
    """What there is to say of a whole model that lies in a folder."""
    words = ["vllm", "serve", str(from_here(output)), "--served-model-name", name]
    return ExportReport(
        format="safetensors",
        output=output,
        name=name,
        base=base,
        max_lora_rank=None,
        command=shlex.join(words),
    )


def find_faults(config: Mapping[str, Any], folder: Path, *, embeddings: bool) -> Iterator[str]:
    """Why vLLM would not load an adapter, or would load it as another than it is."""
    kind = config["peft_type"]
    if kind != "LORA":
        yield f"peft_type: is {kind}, and only LORA is loaded"
        return
    if config.get("task_type") == "SEQ_2_SEQ_LM":
        yield "task_type: is SEQ_2_SEQ_LM, and adapters are for models that only write on"
    yield from _rank_faults(config)
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "bias: the adapter trains biases, which have no place"
    if config.get("use_dora"):
        yield "use_dora: magnitudes (DoRA) are not loaded"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in HARMLESS_STARTS:
        yield f"init_lora_weights: {start} fits a changed base, not the one that is served"
    if heads := sorted(set(config.get("modules_to_save") or ()) - set(HEADS)):
        yield f"modules_to_save: {', '.join(heads)} were trained whole, and are not loaded"
    if config.get("trainable_token_indices"):
        yield "trainable_token_indices: rows of added tokens were trained, and are not loaded"
    for name in ("alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora"):
        if config.get(name):
            yield f"{name}: is not supported"
    yield from _tensor_faults(config, folder, embeddings)


def least_max_rank(rank: int) -> int:
    """The least --max-lora-rank that takes an adapter of a rank."""
    return next(each for each in RANKS if each >= rank)


def _rank_faults(config: Mapping[str, Any]) -> Iterator[str]:
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1:
        yield f"r: is {rank}, and must be 1 or more"
    elif rank > RANKS[-1]:
        yield f"r: is {rank}, and {RANKS[-1]} is the most"
    for name in ("rank_pattern", "alpha_pattern"):
        if config.get(name):
            # Most releases read one rank and one alpha, and would scale these layers wrongly.
            yield f"{name}: layers have ranks or scales of their own"


def _tensor_faults(config: Mapping[str, Any], folder: Path, embeddings: bool) -> Iterator[str]:
    """What is wrong with the weights, by the names and shapes in their file's header."""
    from safetensors import SafetensorError, safe_open

    if not (folder / WEIGHTS).is_file():
        yield f"there is no {WEIGHTS}"
        return
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        yield f"{WEIGHTS} cannot be read: {error}"
        return
    unknown, layers, ranks = [], set(), set()
    for name, shape in shapes.items():
        # peft writes the base's own rows of tokens beside an adapter on them; they are passed over.
        if name.endswith(tuple(f".{each}.base_layer.weight" for each in EMBEDDINGS)):
            continue
        found = TENSOR.fullmatch(name)
        if found is None:
            unknown.append(name)
            continue
        layers.add(found[1].rpartition(".")[2])
        if found[2] == "A":
            ranks.add(shape[0])
    if unknown:
        yield f"{WEIGHTS} holds what is no part of a LoRA: {_some(unknown)}"
    if foreign := layers - LAYERS - set(EMBEDDINGS):
        yield f"target_modules: no layer of vLLM's is called {_some(foreign)}"
    if not embeddings and (over := layers & set(EMBEDDINGS)):
        yield (
            f"target_modules: {_some(over)} is loaded for some classes of models only; "
            "--allow-embeddings lets it through"
        )
    if not layers:
        yield f"{WEIGHTS} holds no LoRA"
    if ranks - {config.get("r")} and not config.get("rank_pattern"):
        yield f"r: is {config.get('r')}, and {WEIGHTS} has rank {_some(map(str, ranks))}"


def _some(names: Iterable[str]) -> str:
    """The first of some names."""
    known = sorted(names)
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return ", ".join(known[:SHOWN]) + more


def _copy(folder: Path, output: Path) -> None:
    with new_folder(output) as temporary:
        for path in model_files(folder):
            shutil.copyfile(path, temporary / path.name)


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (ADAPTER_CONFIG, "config.json"))
