"""Imitation: policies learned from the actions of an expert."""
