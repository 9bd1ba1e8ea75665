"""Replay buffers: a ring of transitions, sampled uniformly, by priority or in sequences."""
