"""A policy and a critic that judges it (lecture 6)."""
