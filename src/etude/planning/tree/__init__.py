"""Monte Carlo tree search, compiled and in plain Python, and games to search."""
