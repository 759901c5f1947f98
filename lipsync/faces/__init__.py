"""Detect, track, smooth, crop and mask faces."""
