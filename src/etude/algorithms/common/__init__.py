"""What several algorithms share: on-policy and off-policy learning, exploration."""
