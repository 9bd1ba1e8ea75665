"""Pure functions over time: returns and advantages, losses, baselines, running statistics."""
