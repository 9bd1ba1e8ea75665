"""Planners as policies: model-predictive control and Monte Carlo tree search."""
