"""Replay buffers: a ring of transitions, drawn from uniformly, by priority or in sequences."""
