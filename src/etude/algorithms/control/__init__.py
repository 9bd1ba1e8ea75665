"""Planning as a policy (lecture 10)."""
