"""That a video is synthetic, and which generator made it, kept in the file itself as its comment.

    lipsync AI-generated synthetic media
    digital-source-type=http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia
    generator=<sha256> experts=<sha256>,<sha256> job=<digest>          (all one line)

So people and platforms are told, and an evaluation can tell when its judge also trained the generator,
whatever became of the file's name. The comment is what mp4 and Matroska both keep; players show it. The
source type is the term of the IPTC's vocabulary for material of which trained models made a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lipsync.media.probe import open_media

_MARK = "lipsync"
_LABEL = "AI-generated"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source type, as C2PA and photo metadata use it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a video; without arguments, that a generator made it which is not known."""

    generator: str = ""
    """SHA-256 of the generator's weight file; empty where it is not known."""
    experts: tuple[str, ...] = ()
    """SHA-256 of the experts it was trained with, as far as is known."""
    job: str | None = None
    """Digest of inputs and settings, where the maker wants to know the file again."""

    @property
    def comment(self) -> str:
        """The text for the file."""
        words = [_MARK, _LABEL, "synthetic media", f"digital-source-type={SOURCE_TYPE}"]
        if self.generator:
            words.append(f"generator={self.generator}")
        if self.experts:
            words.append(f"experts={','.join(self.experts)}")
        if self.job is not None:
            words.append(f"job={self.job}")
        return " ".join(words)

    @property
    def metadata(self) -> dict[str, str]:
        """For :class:`lipsync.media.writer.VideoWriter`."""
        return {"comment": self.comment}


def read_provenance(path: str | Path) -> Provenance | None:
    """What the file says of who made it; None where it names no generator.

    Raises:
        MediaError: The file is missing, unreadable or not media.
    """
    return _parsed(_comment(path))


def is_synthetic(path: str | Path) -> bool:
    """Whether the file is marked as made by this package, by a known generator or not.

    Raises:
        MediaError: The file is missing, unreadable or not media.
    """
    comment = _comment(path)
    return comment.split()[:2] == [_MARK, _LABEL] or _parsed(comment) is not None


def _comment(path: str | Path) -> str:
    with open_media(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    return tags.get("comment", "")


def _parsed(comment: str) -> Provenance | None:
    mark, *words = comment.split() or [""]
    named = dict(word.split("=", 1) for word in words if "=" in word)
    if mark != _MARK or not named.get("generator"):
        return None
    experts = tuple(digest for digest in named.get("experts", "").split(",") if digest)
    return Provenance(named["generator"], experts, named.get("job"))
