"""``python train.py key=value ...``: see configs/train.yaml and the README."""

from lipsync.cli.train import main

if __name__ == "__main__":
    main()
