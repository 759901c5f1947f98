"""Preprocessed clips, window datasets, the synthetic corpus and the DataModule."""
