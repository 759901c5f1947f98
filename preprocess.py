"""``python preprocess.py key=value ...``: see configs/preprocess.yaml and the README."""

from lipsync.cli.preprocess import main

if __name__ == "__main__":
    main()
