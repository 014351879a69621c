"""Signing: an Ed25519 key says who made a card, and so every file that the card names."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_core.config.settings import Settings
from finetune_core.exceptions import Fault, InvalidConfigError, UnverifiedError
from finetune_core.hub.lineage import CARD, SIGNATURE
from finetune_core.storage import write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PRIVATE, PUBLIC = "FINETUNE_SIGNING_KEY", "FINETUNE_VERIFY_KEY"


def sign(package: Path) -> None:
    """Signs a package's card, where `FINETUNE_SIGNING_KEY` names a key.

    Raises:
        InvalidConfigError: The file is no such key, or others may read it.
    """
    file = Settings().signing_key
    if file is None:
        return
    key = _private_key(file)
    signature = key.sign((package / CARD).read_bytes())
    facts = {
        "algorithm": "ed25519",
        "public_key": _text(key.public_key().public_bytes_raw()),
        "signature": _text(signature),
    }
    write_json(package / SIGNATURE, facts)


def check_signature(package: Path) -> str | None:
    """Checks a card's signature.

    Returns:
        The public key that it was signed with, in base64; none where it was not signed, and nobody
        asked for that.

    Raises:
        UnverifiedError: The signature is not the card's, or of another key than
            `FINETUNE_VERIFY_KEY` names, or missing though a key is named.
        InvalidConfigError: The file is no key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    expected = _expected_key()
    file = package / SIGNATURE
    if not file.exists():
        if expected is not None:
            raise UnverifiedError(f"it is not signed, and {PUBLIC} asks for that")
        return None
    try:
        facts = json.loads(file.read_text())
        public = base64.b64decode(facts["public_key"], validate=True)
        signature = base64.b64decode(facts["signature"], validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, (package / CARD).read_bytes())
    except InvalidSignature:
        raise UnverifiedError(f"{SIGNATURE} is not the signature of {CARD}") from None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UnverifiedError(f"{SIGNATURE} cannot be read: {error}") from None
    if expected is not None and public != expected:
        raise UnverifiedError(f"it is signed by {_text(public)}, and {PUBLIC} is another key")
    return _text(public)


def _expected_key() -> bytes | None:
    """The public key that signatures must be of: the one that is named, or our own's."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    settings = Settings()
    if settings.verify_key is None:
        own = settings.signing_key
        return _private_key(own).public_key().public_bytes_raw() if own else None
    try:
        key = load_pem_public_key(settings.verify_key.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidConfigError([Fault(PUBLIC, f"is no public key: {_why(error)}")]) from None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidConfigError([Fault(PUBLIC, "is no Ed25519 key")])
    return key.public_bytes_raw()


def _private_key(file: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        mode = file.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            problem = f"{file} may be read by others: chmod 600 {file}"
            raise InvalidConfigError([Fault(PRIVATE, problem)])
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidConfigError([Fault(PRIVATE, f"is no private key: {_why(error)}")]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidConfigError([Fault(PRIVATE, "is no Ed25519 key")])
    return key


def _why(error: Exception) -> str:
    """What is wrong with a file, without what is in it."""
    return error.strerror or "it cannot be read" if isinstance(error, OSError) else "no such PEM"


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
