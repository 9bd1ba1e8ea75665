"""Environments of every kind under one protocol."""
from etude.environments.registry import make

__all__ = ["make"]
