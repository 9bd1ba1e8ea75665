"""Studies that measure and draw a result: overestimation, gradient variance, open loop, plans."""
