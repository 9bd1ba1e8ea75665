"""Trajectory optimizers that take derivatives: LQR, iLQR, DDP, shooting, collocation."""
