"""Audio-driven lip synchronisation: train, evaluate, infer.

Importing this package loads neither torch nor OpenCV; import the part you need.
"""

__version__ = "0.1.0"
