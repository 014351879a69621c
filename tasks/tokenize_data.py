"""The task that tokenizes the clean rows."""

from prefect import task

from finetune_core.child import Emit
from finetune_core.config import PipelineConfig
from finetune_core.data.tokenize import TokenizeRequest
from finetune_core.hub import open_hub
from finetune_core.hub.tracking import Tracking
from finetune_core.jobs import organization_folder
from finetune_core.types import CleanData, Job, TokenizedData
from tasks.artifacts import publish_data
from tasks.stage import STAGE, run_in_child, run_stage

SAID = {
    "too_long": "too long",
    "template": "refused by the template",
    "unknown_label": "with a label that no training row has",
}


@task(name="tokenize", **STAGE)
def tokenize_data(job: Job, config: PipelineConfig, clean: CleanData) -> TokenizedData:
    """Clean rows → token ids and labels."""
    request = TokenizeRequest.for_model(
        config.model,
        config.tokenization,
        clean=clean,
        sanitize=config.dataset.sanitize,
        cache=organization_folder(job.organization) / "cache" / "tokens",
    )

    def work(hear: Emit) -> TokenizedData:
        return run_in_child(
            "finetune_core.data.tokenize:tokenize",
            request,
            TokenizedData,
            final=request.folder,
            job=job,
            hear=hear,
        )

    def summary(tokens: TokenizedData) -> str:
        split = tokens.train_split
        rules = {**tokens.changed_by_rule, **tokens.dropped_by_rule}
        found = "".join(
            f", {rules[rule]:,} rows {words}" for rule, words in SAID.items() if rule in rules
        )
        trained = f"{split.trained_tokens / split.tokens:.0%} of them trained"
        if tokens.labels:
            trained = f"{len(tokens.labels)} labels"
        return f"{split.tokens:,} tokens, {trained}{found}"

    tokens = run_stage(job, "tokenize", work, summary)
    publish_data(job, tokens)
    Tracking(open_hub(job.organization), job).tell_data(config, clean, tokens)
    return tokens
