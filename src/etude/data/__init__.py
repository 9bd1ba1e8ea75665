"""Transitions, minibatches and replay buffers."""
