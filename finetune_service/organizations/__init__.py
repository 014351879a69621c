"""Organisations, and the API keys that speak for them."""

from finetune_service.organizations.keys import Key, NewKey, Organization
from finetune_service.organizations.organizations import Organizations

__all__ = ["Key", "NewKey", "Organization", "Organizations"]
