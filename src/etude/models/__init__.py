"""Models of environments for planning."""
