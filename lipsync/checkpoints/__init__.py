"""Weight files: catalogue, download, adapters and strict, safe loading."""
