"""Files of a run: JSON, directories, the lock of a writer, checkpoints, metrics.csv."""
