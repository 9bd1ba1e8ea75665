"""Runs: settings, training, resuming, evaluation, displays and videos."""
