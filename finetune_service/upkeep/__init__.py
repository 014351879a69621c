"""Upkeep: what is not needed any more is removed, and all that is needed is backed up."""
