"""Planners that score sampled plans: random shooting, CEM, iCEM, MPPI, CMA-ES."""
