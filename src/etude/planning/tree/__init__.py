"""Monte Carlo tree search (UCT), compiled and in plain Python, and board games."""
