"""The roles of the keys that are folded into a run's key, apart from those of training.

Training splits the key of a seed, and `split(key, n)[i]` is `fold_in(key, i)`; so a role is a
number that no split and no counter of iterations reaches.
"""

INITIAL_MEMORY = 2**31  # an initial memory, from the key of a reset or a step
FINAL_EVALUATION = 2**31 + 1  # the episodes of `Run.evaluate`, which those of `record` equal
PERIODIC_EVALUATION = 2**31 + 2  # the episodes of each evaluation during training
RENDERING = 2**31 + 3  # the episodes of a video and of a window
