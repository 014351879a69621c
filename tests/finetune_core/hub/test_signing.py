"""Signatures: what is signed can be told from what was changed, and from what others signed."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from finetune_core.exceptions import InvalidConfigError, UnverifiedError
from finetune_core.hub.signing import check_signature, sign


@pytest.fixture
def make_key(tmp_path):
    def make_key(name, mode=0o600, key=None):
        key = key or Ed25519PrivateKey.generate()
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        private.chmod(mode)
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        public.write_bytes(pem)
        return private, public

    return make_key


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "card.json").write_text('{"model_name": "orders"}')
    return folder


@pytest.fixture
def ours(make_key, monkeypatch, package):
    private, public = make_key("ours")
    monkeypatch.setenv("FINETUNE_SIGNING_KEY", str(private))
    sign(package)
    return public


def test_what_our_key_signed_is_ours(package, ours, monkeypatch):
    signer = check_signature(package)
    monkeypatch.delenv("FINETUNE_SIGNING_KEY")
    monkeypatch.setenv("FINETUNE_VERIFY_KEY", str(ours))  # as on a machine that only looks
    assert check_signature(package) == signer


def test_a_card_that_was_changed_is_not_what_was_signed(package, ours):
    (package / "card.json").write_text('{"model_name": "others"}')
    with pytest.raises(UnverifiedError, match="is not the signature"):
        check_signature(package)


def test_somebody_elses_signature_is_not_ours(package, ours, make_key, monkeypatch):
    monkeypatch.setenv("FINETUNE_VERIFY_KEY", str(make_key("theirs")[1]))
    with pytest.raises(UnverifiedError, match="another key"):
        check_signature(package)


def test_without_a_key_nothing_is_signed_and_nothing_asked_for(package):
    sign(package)
    assert not (package / "card.sig").exists()
    assert check_signature(package) is None


def test_where_a_key_is_named_nothing_goes_unsigned(package, ours):
    (package / "card.sig").unlink()
    with pytest.raises(UnverifiedError, match="not signed"):
        check_signature(package)


@pytest.mark.parametrize("text", ["", "{}", '{"public_key": "!", "signature": "!"}', "[]"])
def test_a_signature_that_cannot_be_read_is_none(package, ours, text):
    (package / "card.sig").write_text(text)
    with pytest.raises(UnverifiedError):
        check_signature(package)


def test_a_key_that_others_may_read_signs_nothing(package, make_key, monkeypatch):
    monkeypatch.setenv("FINETUNE_SIGNING_KEY", str(make_key("open", mode=0o644)[0]))
    with pytest.raises(InvalidConfigError, match="chmod 600"):
        sign(package)
    assert not (package / "card.sig").exists()


def test_a_key_of_another_kind_signs_nothing(package, make_key, monkeypatch):
    rsa = generate_private_key(public_exponent=65537, key_size=2048)
    monkeypatch.setenv("FINETUNE_SIGNING_KEY", str(make_key("rsa", key=rsa)[0]))
    with pytest.raises(InvalidConfigError, match="no Ed25519 key"):
        sign(package)


def test_the_key_itself_is_nowhere_in_what_is_signed(package, ours, tmp_path):
    secret = (tmp_path / "ours.pem").read_text().splitlines()[1]
    facts = json.loads((package / "card.sig").read_text())
    assert facts.keys() == {"algorithm", "public_key", "signature"}
    assert all(secret not in value for value in facts.values())
