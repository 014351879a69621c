"""The task that tokenizes the clean rows."""

from prefect import task

from finetune_core.config import PipelineConfig
from finetune_core.data.tokenize import TokenizeRequest
from finetune_core.hub import open_hub
from finetune_core.hub.tracking import Tracking
from finetune_core.jobs import organization_folder
from finetune_core.models.source import find_model
from finetune_core.types import CleanData, Job, TokenizedData
from tasks.artifacts import publish_data
from tasks.stage import STAGE, run_in_child, run_stage
from tasks.terminal import Terminal

SAID = {"too_long": "too long", "template": "refused by the template"}


@task(name="tokenize", **STAGE)
def tokenize_data(job: Job, config: PipelineConfig, clean: CleanData) -> TokenizedData:
    """Clean rows → token ids and labels."""
    request = TokenizeRequest(
        clean=clean,
        tokenizer=find_model(config.model),
        tokenization=config.tokenization,
        sanitize=config.dataset.sanitize,
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
        rules = {**tokens.changed_by_rule, **tokens.dropped_by_rule}
        found = "".join(
            f", {rules[rule]:,} rows {words}" for rule, words in SAID.items() if rule in rules
        )
        return (
            f"{split.tokens:,} tokens, {split.trained_tokens / split.tokens:.0%} of them trained"
            f"{found}"
        )

    tokens = run_stage("tokenize", work, summary)
    publish_data(job, tokens)
    Tracking(open_hub(job.organization), job).tell_data(config, clean, tokens)
    return tokens
