"""Monte Carlo tree search by rules (UCT, PUCT), compiled and in plain Python, and board games."""
