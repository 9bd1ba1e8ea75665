"""Policy gradients that stay near the policy they were estimated with (lecture 9)."""
