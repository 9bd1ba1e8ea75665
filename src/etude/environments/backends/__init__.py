"""Backends that step environments: JAX, EnvPool, and Gymnasium in this or in other processes."""
