"""The combine flow: several registered adapters become one, which the gate judges."""

from __future__ import annotations

from prefect import flow

from finetune_core.exceptions import AdapterError
from finetune_core.hub import open_hub
from finetune_core.hub.card import Card
from finetune_core.hub.lineage import fetch_lineage
from finetune_core.hub.ports import Version
from finetune_core.hub.tracking import Tracking
from finetune_core.jobs import open_job, working_on
from finetune_core.models.combining import CombineRequest, Way, check_asked
from finetune_core.types import RegisteredVersion
from tasks.combine_adapters import combine_adapters
from tasks.evaluate_model import evaluate_model
from tasks.register_model import register_model
from tasks.sanitize_data import sanitize_data
from tasks.tokenize_data import tokenize_data


@flow(name="combine")
def combine(
    adapters: list[str],
    organization: str = "local",
    name: str | None = None,
    way: Way = "ties",
    weights: list[float] | None = None,
    density: float = 0.5,
) -> RegisteredVersion:
    """Combines registered adapters of one base into one, measures it and has it face the gate.

    It is measured on the rows that the first adapter's card holds out.

    Args:
        adapters: Two or more, each as `NAME@VERSION` or `NAME@ALIAS`.
        organization: Whose they are.
        name: What it is registered as; without it, as the first one is called.
        way: How they are combined: `finetune_core.models.combining.Way`.
        weights: How much each counts; without it, all the same.
        density: The share of updates that ties and dare keep.

    Raises:
        InvalidConfigError: There are too few adapters, or not as many weights.
        AdapterError: They do not combine.
    """
    weights = weights or [1.0] * len(adapters)
    check_asked(adapters, weights, density)
    hub = open_hub(organization)
    versions = [_find(hub.get(*each.rsplit("@", 1))) for each in adapters]
    config = fetch_lineage(hub, versions[0]).pipeline_config()
    registry = config.registry.model_copy(update={"model_name": name or versions[0].model_name})
    training = config.training.model_copy(update={"output_dir": None})
    config = config.model_copy(update={"registry": registry, "training": training})
    with working_on(open_job(config, organization)) as job:
        tracking = Tracking(hub, job)
        try:
            clean = sanitize_data(job, config)
            tokens = tokenize_data(job, config, clean)
            request = CombineRequest(
                adapters=[],
                refs=[version.ref for version in versions],
                weights=weights,
                way=way,
                density=density,
                seed=config.training.seed,
                model=config.model,
                output=job.folder / "adapter",
            )
            chosen = combine_adapters(job, versions, request)
            report = evaluate_model(job, config, tokens, chosen)
            card = Card(
                job=job,
                config=config,
                clean=clean,
                tokens=tokens,
                trained=None,
                chosen=chosen,
                report=report,
                combined=request.refs,
            )
            registered = register_model(card)
        except BaseException:
            tracking.end("FAILED")
            raise
        tracking.end("FINISHED")
    return registered


def _find(version: Version) -> Version:
    if "adapter_digest" not in version.tags:
        raise AdapterError(f"{version.ref} is no adapter")
    return version
