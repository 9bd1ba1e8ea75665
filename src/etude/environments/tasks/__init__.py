"""Tasks of etude itself, in JAX and for Gymnasium.

This file imports nothing, so that worker processes of Gymnasium's environments start without JAX.
"""
