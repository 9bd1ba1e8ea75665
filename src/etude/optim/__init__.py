"""Schedules of hyperparameters, and the natural gradient."""
