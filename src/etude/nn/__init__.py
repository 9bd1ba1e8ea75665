"""Neural networks: layers, networks, distributions, policies and critics as callable pytrees."""
