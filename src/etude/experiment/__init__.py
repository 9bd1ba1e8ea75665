"""Runs: training that is recorded, saved, resumed, judged and shown."""
