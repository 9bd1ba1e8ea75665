"""Pure functions over time or rows: returns, losses, baselines, statistics, calibration."""
