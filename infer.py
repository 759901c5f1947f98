"""``python infer.py key=value ...``: see configs/infer.yaml and the README."""

from lipsync.cli.infer import main

if __name__ == "__main__":
    main()
