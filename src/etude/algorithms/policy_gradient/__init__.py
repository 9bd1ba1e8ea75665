"""The gradient of the expected return itself (lecture 5)."""
