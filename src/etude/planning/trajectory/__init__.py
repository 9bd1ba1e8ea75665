"""Trajectory optimization with derivatives: LQR, iLQR, DDP, shooting and collocation."""
