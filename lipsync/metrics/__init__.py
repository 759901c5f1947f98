"""Sync and image metrics: pure functions and torchmetrics classes."""
