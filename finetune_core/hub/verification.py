"""Verify: whether a version is, to the byte, what its card says, and what it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune_core.config.sections import DatasetConfig, ModelConfig
from finetune_core.exceptions import FineTuneError, InputError, UnverifiedError
from finetune_core.hub.bases import FACTS, is_copied, read_facts
from finetune_core.hub.lineage import CARD, Lineage, digests, read_lineage
from finetune_core.hub.ports import Version
from finetune_core.hub.signing import check_signature
from finetune_core.models.source import (
    digest_model,
    digest_tokenizer,
    find_model,
    holds_weights,
)
from finetune_core.storage import digest_file, digest_json
from finetune_core.types import DatasetSource, Record

OK, CHANGED, MISSING, UNKNOWN = "ok", "changed", "missing", "not in the card"
ABSENT, SINCE = "not here", "not as it was then"
GOOD = (OK, ABSENT, SINCE)  # what it was made from may change, and the version is as it was


class Finding(Record):
    """One digest, as the card has it and as it was computed now."""

    what: str
    state: str
    expected: str | None = None
    found: str | None = None

    @property
    def is_gone(self) -> bool:
        """Whether it is something that the version was made from, and is not there any more."""
        return self.state in (ABSENT, SINCE)


class Verification(Record):
    """What came of verifying a version. `signed_by` is a public key in base64."""

    ref: str
    findings: list[Finding]
    signed_by: str | None
    signature_fault: str | None

    @property
    def faults(self) -> list[str]:
        """What is not as it should be, each in a line."""
        found = [f"{each.what}: {each.state}" for each in self.findings if each.state not in GOOD]
        return [*found, *([self.signature_fault] if self.signature_fault else [])]

    @property
    def verified(self) -> bool:
        """Whether there is nothing wrong."""
        return not self.faults

    def insist(self) -> None:
        """Refuses a version with which something is wrong.

        Raises:
            UnverifiedError: Something is.
        """
        if self.faults:
            raise UnverifiedError(f"{self.ref} is not what its card says: {'; '.join(self.faults)}")


def verify(version: Version, package: Path) -> Verification:
    """Recomputes every digest of a version's card; of a base, those of the base.

    Args:
        version: As the registry has it: a tag of it holds the card's own digest.
        package: Its files, fetched for this.

    Raises:
        UnverifiedError: It has no card that can be read.
        InvalidConfigError: The key that signatures must be of is none.
    """
    if version.is_base:
        return _verify_base(version, package)
    card = read_lineage(package)
    signed_by, fault = None, None
    try:
        signed_by = check_signature(package)
    except UnverifiedError as error:
        fault = error.message
    findings = [
        _compared(CARD, version.tags.get("card_digest"), digest_file(package / CARD)),
        *_files(card, package),
        _compared("config", card.config_digest, digest_json(card.config)),
        *_sources(card),
    ]
    return Verification(
        ref=version.ref, findings=findings, signed_by=signed_by, signature_fault=fault
    )


def _verify_base(version: Version, package: Path) -> Verification:
    """Whether a base is what was registered: the copy, or else the model that is referred to."""
    try:
        facts = read_facts(package)
    except (OSError, ValueError) as error:
        raise UnverifiedError(f"its {FACTS} cannot be read: {error}") from None
    findings = [_compared(FACTS, version.tags.get("card_digest"), digest_file(package / FACTS))]
    weights, tokenizer = _base_digests(facts.model)
    referred = _elsewhere("base model", facts.digest, weights)
    if is_copied(version):
        copied = digest_model(package), digest_tokenizer(package)
        findings.append(_compared("copied model", facts.digest, copied[0]))
        findings.append(_compared("copied tokenizer", facts.tokenizer_digest, copied[1]))
    elif referred.state == SINCE:  # it is all that there is of the version
        referred = _compared("base model", facts.digest, weights)
    findings.append(referred)
    if facts.tokenizer_digest:
        findings.append(_elsewhere("base tokenizer", facts.tokenizer_digest, tokenizer))
    return Verification(ref=version.ref, findings=findings, signed_by=None, signature_fault=None)


def _files(card: Lineage, package: Path) -> Iterator[Finding]:
    """The files that were registered, and those that nobody has."""
    found = digests(package)
    for name, digest in card.files.items():
        yield _compared(name, digest, found.get(name))
    for name in sorted(found.keys() - card.files.keys()):
        yield Finding(what=name, state=UNKNOWN, found=found[name])


def _sources(card: Lineage) -> Iterator[Finding]:
    """What it was made from, where that is on this machine."""
    config = card.pipeline_config()
    base, tokenizer = _base_digests(config.model)
    yield _elsewhere("base model", card.base.digest, base)
    yield _elsewhere("base tokenizer", card.tokenizer_digest, tokenizer)
    yield _elsewhere("dataset", card.data.source_digest, source_digest(config.dataset))


def _base_digests(model: ModelConfig) -> tuple[str | None, str | None]:
    try:
        folder = find_model(model)
        weights = digest_model(folder) if holds_weights(folder) else None
        return weights, digest_tokenizer(folder)
    except (InputError, OSError):
        return None, None


def source_digest(dataset: DatasetConfig) -> str | None:
    """The digest of a dataset as it is now; none where it is not on this machine."""
    from finetune_core.data.sanitize import SanitizeRequest

    if dataset.source is not DatasetSource.LOCAL_FILE:
        return None
    try:
        return SanitizeRequest(dataset=dataset, cache=Path()).source_digest
    except (FineTuneError, OSError):
        return None


def _compared(what: str, expected: str | None, found: str | None) -> Finding:
    state = OK if expected == found else MISSING if found is None else CHANGED
    return Finding(what=what, state=state, expected=expected, found=found)


def _elsewhere(what: str, expected: str, found: str | None) -> Finding:
    if found is None:
        return Finding(what=what, state=ABSENT, expected=expected)
    state = OK if found == expected else SINCE
    return Finding(what=what, state=state, expected=expected, found=found)
