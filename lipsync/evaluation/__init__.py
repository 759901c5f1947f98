"""Score videos and write reports."""
