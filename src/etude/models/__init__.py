"""Models of environments for planning, and what is known of their steps."""
