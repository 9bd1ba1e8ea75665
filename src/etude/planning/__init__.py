"""Planning: sampling-based optimizers, trajectory optimization and Monte Carlo tree search."""
