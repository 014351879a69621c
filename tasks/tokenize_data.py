"""The task that tokenizes the clean rows."""

from prefect import task

from finetune_core.config import PipelineConfig
from finetune_core.data.tokenize import TokenizeRequest
from finetune_core.hub import open_hub
from finetune_core.hub.tracking import Tracking
from finetune_core.jobs import organization_folder
from finetune_core.types import CleanData, Job, TokenizedData
from tasks.stage import STAGE, run_in_child, run_stage
from tasks.terminal import Terminal


@task(name="tokenize", **STAGE)
def tokenize_data(job: Job, config: PipelineConfig, clean: CleanData) -> TokenizedData:
    """Clean rows → token ids and labels."""
    request = TokenizeRequest(
        clean=clean,
        model=config.model,
        tokenization=config.tokenization,
        cache=organization_folder(job.organization) / "cache" / "tokens",
    )

    def work(terminal: Terminal) -> TokenizedData:
        return run_in_child(
            "finetune_core.data.tokenize:tokenize",
            request,
            TokenizedData,
            final=request.folder,
            job=job,
            terminal=terminal,
        )

    def summary(tokens: TokenizedData) -> str:
        split = tokens.train_split
        left_out = len(split.too_long) + len(tokens.validation_split.too_long)
        return (
            f"{split.tokens:,} tokens, {split.trained_tokens / split.tokens:.0%} of them trained"
            f"{f', {left_out:,} rows too long' if left_out else ''}"
        )

    tokens = run_stage("tokenize", work, summary)
    Tracking(open_hub(job.organization), job).tell_data(config, clean, tokens)
    return tokens
