"""A person plays: a window on an environment, and what keys, mouse and sticks mean in it."""
