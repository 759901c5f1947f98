"""Plain networks. They know neither Lightning nor Hydra, and compute no loss."""
