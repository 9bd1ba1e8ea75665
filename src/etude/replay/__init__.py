"""Memories to learn from again."""
