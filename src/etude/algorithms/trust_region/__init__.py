"""Trust-region policy gradients: natural gradient, TRPO, PPO."""
