"""Exact solutions of small Markov decision processes, the reference for learning algorithms."""
