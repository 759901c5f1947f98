"""The streaming lip-sync pipeline."""
