"""An observer that remembers, and textured videos with a face, for tests of the visual pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from lipsync.errors import NotScorableError
from lipsync.evaluation.columns import Column
from lipsync.evaluation.visual import VisualPass
from lipsync.media.probe import probe
from lipsync.media.reader import VideoReader

BOX = (20.0, 16.0, 68.0, 64.0)


@dataclass
class Watcher:
    """Keeps what it is shown."""

    family: str = "identity"
    columns: tuple = (Column("seen", "seen", "identity"),)
    needs_faces: bool = False
    pairing: str = "none"
    fails_in: str = ""
    pairs: list = field(default_factory=list)
    items: list = field(default_factory=list)

    def begin(self, item, info):
        self.items.append(item)
        self.pairs = []
        self._fail("begin")

    def update(self, pair):
        self.pairs.append(pair)
        self._fail("update")

    def finish(self):
        self._fail("finish")
        return {"seen": len(self.pairs)}

    def _fail(self, where):
        if where == self.fails_in:
            raise NotScorableError(f"fails\nin {where}")


def measure(observers, item, detector=None, **settings):
    return VisualPass(observers, detector, **settings).measure(item, probe(item.path))[:3]


def images(path):
    return [frame.image for frame in VideoReader(path)]
