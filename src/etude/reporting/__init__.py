"""Statistics over seeds, and figures."""
