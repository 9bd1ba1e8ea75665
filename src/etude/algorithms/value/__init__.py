"""Value-based algorithms: learn action values; the policy takes the best action."""
