"""The protocols under which sync is scored; they give different numbers for one video.

``lrs``: the whole frame, for corpora that are face crops already (``calculate_scores_LRS.py``).
``wild``: shots, face tracks and crops first, for videos as found (``run_pipeline`` of SyncNet v2).
``strict``: faces tracked in every video, true time, every window, nothing lossy; fixes the faults of both.

The first two equal the published programs step by step, their lossy files included, so that their numbers
can stand beside published ones.
"""

from lipsync.evaluation.protocols.base import FPS, EvaluationProtocol
from lipsync.evaluation.protocols.following import find_tracks, passes
from lipsync.evaluation.protocols.lrs import LrsProtocol
from lipsync.evaluation.protocols.strict import StrictProtocol
from lipsync.evaluation.protocols.wild import WildProtocol

__all__ = [
    "FPS",
    "EvaluationProtocol",
    "LrsProtocol",
    "StrictProtocol",
    "WildProtocol",
    "find_tracks",
    "passes",
]
