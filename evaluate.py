"""``python evaluate.py key=value ...``: see configs/evaluate.yaml and the README."""

from lipsync.cli.evaluate import main

if __name__ == "__main__":
    main()
