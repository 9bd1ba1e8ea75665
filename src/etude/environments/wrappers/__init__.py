"""Wrappers of environments: time limits, frame stacks, action masks and hidden velocities."""
