"""Parts that several algorithms share: on-policy and off-policy updates, and exploration."""
