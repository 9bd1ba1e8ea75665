"""Runs: settings, training, resuming, evaluating, displays and videos."""
