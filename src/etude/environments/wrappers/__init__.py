"""Environments around environments: time limits, stacked frames, action masks."""
