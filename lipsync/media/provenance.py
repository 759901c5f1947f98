"""Which generator made a video, kept in the file itself as its comment.

    lipsync generator=<sha256> experts=<sha256>,<sha256> job=<digest>

So an evaluation can tell when its judge also trained the generator, whatever became of the file's name. The
comment is what mp4 and Matroska both keep; players show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lipsync.media.probe import open_media

_MARK = "lipsync"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a video."""

    generator: str
    """SHA-256 of the generator's weight file."""
    experts: tuple[str, ...] = ()
    """SHA-256 of the experts it was trained with, as far as is known."""
    job: str | None = None
    """Digest of inputs and settings, where the maker wants to know the file again."""

    @property
    def comment(self) -> str:
        """The text for the file."""
        words = [_MARK, f"generator={self.generator}"]
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
    """What the file says of who made it; None where it says nothing.

    Raises:
        MediaError: The file is missing, unreadable or not media.
    """
    with open_media(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    return _parsed(tags.get("comment", ""))


def _parsed(comment: str) -> Provenance | None:
    mark, *words = comment.split() or [""]
    named = dict(word.split("=", 1) for word in words if "=" in word)
    if mark != _MARK or "generator" not in named:
        return None
    experts = tuple(digest for digest in named.get("experts", "").split(",") if digest)
    return Provenance(named["generator"], experts, named.get("job"))
