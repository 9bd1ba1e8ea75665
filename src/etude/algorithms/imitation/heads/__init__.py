"""Action heads: what a cloned policy predicts from the features of a state."""
