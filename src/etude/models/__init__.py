"""Models of environments to plan on."""
