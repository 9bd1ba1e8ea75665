"""Files of a run: JSON, directories, checkpoints, metrics.csv."""
