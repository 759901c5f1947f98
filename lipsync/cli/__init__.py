"""Hydra entry points. The only layer that knows Hydra."""
