"""Measurements that draw a claim: overestimation, gradient variance, open loop, plans."""
