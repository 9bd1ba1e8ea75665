"""Statistics over seeds, and figures of runs and plans."""
