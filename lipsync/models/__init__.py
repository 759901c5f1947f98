"""Plain networks, which know neither Lightning nor Hydra and compute no loss, and what they share."""
