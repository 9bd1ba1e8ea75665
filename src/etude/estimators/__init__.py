"""Pure functions over time: returns and advantages, errors and losses, running moments."""
