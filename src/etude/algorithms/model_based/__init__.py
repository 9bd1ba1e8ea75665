"""Model-based algorithms: they learn a model of the environment, and plan on it."""
