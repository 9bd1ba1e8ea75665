"""Monte Carlo policy gradients: REINFORCE."""
