"""What to score for a whole system: its videos, and the rows that give each number its ceiling and floor.

Of a generator: ``reconstruction`` (own speech), ``cross`` (another clip's speech), ``static`` (a still
picture), ``silence`` (no speech), beside the unmodified clips (``real``) and their frames against other
sounds (``shuffled``, ``shifted``). Of finished videos: themselves, their floor, and their references as
``real``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lipsync.errors import ConfigError, MediaError
from lipsync.evaluation.inputs import Sound, VideoItem
from lipsync.evaluation.making import Job, Maker, Plan, generate
from lipsync.evaluation.pairs import Clip, ClipList, deranged
from lipsync.evaluation.results import GeneratorInfo
from lipsync.evaluation.sounds import SHIFTED, SoundShelf
from lipsync.media.provenance import Provenance, read_provenance
from lipsync.metrics.functional import VSHIFT

__all__ = [
    "DEFAULT_SYSTEMS",
    "SYSTEMS",
    "Job",
    "Maker",
    "Plan",
    "SoundShelf",
    "generate",
    "generators_of",
    "plan_generator",
    "plan_videos",
    "with_probes",
]

SHUFFLED = "shuffled"
"""Row that comes, as ``shifted`` does, from other sounds on the frames of another row."""
DEFAULT_SYSTEMS = ("real", SHUFFLED, "reconstruction", "cross", "static", "silence")
SYSTEMS = (*DEFAULT_SYSTEMS, SHIFTED)
"""Names that may be asked for."""

_LABELS = {
    "videos": ("Videos", "The videos given."),
    "real": ("Real clips", "The unmodified clips with their own sound: the ceiling."),
    "reconstruction": (
        "Reconstruction",
        "Generated from the clip's own speech, then compared frame by frame with the clip.",
    ),
    "cross": (
        "Cross",
        "Generated from another clip's speech; the clip shows what the person should look like.",
    ),
    "static": (
        "Static image",
        "Generated from the first frame alone and the clip's own speech: only the mouth moves by itself.",
    ),
    "silence": (
        "Silence",
        "Generated from silence and scored against the speech of the source clip: confidence here is mouth "
        "motion that leaks from the source, so the lower the better.",
    ),
}


def plan_videos(items: Sequence[VideoItem], *, max_shift: int = 0, seed: int = 0) -> list[Plan]:
    """Finished videos with their floor and, where they have references, the references as ``real``.

    The shift test is made on the references, or on the videos themselves where there are none.

    Args:
        items: See :mod:`lipsync.evaluation.inputs`.
        max_shift: Shift the sound by every number of frames up to this, either way; 0 leaves that out.
        seed: Of the shuffled pairs.

    Raises:
        ConfigError: ``max_shift`` is negative or more than judges look for.
    """
    _check_shift(max_shift)
    references: dict[Path, VideoItem] = {}
    for item in items:
        if item.reference is not None and item.reference not in references:
            references[item.reference] = VideoItem(
                item.name, item.reference, expects_reference=False, system="real"
            )
    own_shifts = 0 if references else max_shift
    plans = [_plan("videos", with_probes(items, max_shift=own_shifts, seed=seed), notes=_lonely(len(items)))]
    if references:
        real = with_probes(list(references.values()), shuffled=False, max_shift=max_shift)
        plans.append(_plan("real", real))
    return plans


def plan_generator(
    listed: ClipList,
    folder: Path,
    *,
    systems: Sequence[str] | None = None,
    max_shift: int = 0,
    seed: int = 0,
) -> list[Plan]:
    """All systems of a generator.

    Args:
        listed: Clips, or pairs of them, which ``cross`` then uses; without pairs every clip gets the speech
            of another one, of another folder where possible, each used once.
        folder: Generated videos go to ``folder/<system>/<name>.mp4``.
        systems: Names of :data:`SYSTEMS`; None takes :data:`DEFAULT_SYSTEMS`, and ``shifted`` with a
            ``max_shift``. ``shuffled`` and ``shifted`` bring ``real`` along, whose frames they score.
        max_shift: As in :func:`plan_videos`.
        seed: Of the shuffled and crossed pairs.

    Raises:
        ConfigError: An unknown system, or nothing is left to do.
    """
    wanted = _wanted(systems, max_shift)
    plans = []
    if wanted & {"real", SHUFFLED, SHIFTED}:
        real = [
            VideoItem(clip.name, clip.path, expects_reference=False, system="real") for clip in listed.clips
        ]
        shifts = max_shift if SHIFTED in wanted else 0
        probed = with_probes(real, shuffled=SHUFFLED in wanted, max_shift=shifts, seed=seed)
        plans.append(_plan("real", probed))
    for system, make in _MADE.items():
        if system not in wanted:
            continue
        made = make(listed, folder / system, seed)
        if made:
            plans.append(_plan(system, [item for item, _ in made], [job for _, job in made]))
    if not plans:
        raise ConfigError("systems=[cross] needs two clips, the list has one; add clips or other systems")
    notes = [*listed.notes, *(_lonely(len(listed.clips)) if wanted & {SHUFFLED, "cross"} else [])]
    if "cross" in wanted and listed.pairs and _repeats(listed.pairs):
        notes.append(
            "Faces repeat in the list of pairs: rows of cross are named face__sound, not paired with real."
        )
    return [replace(plans[0], notes=[*plans[0].notes, *notes]), *plans[1:]]


def with_probes(
    items: Sequence[VideoItem], *, shuffled: bool = True, max_shift: int = 0, seed: int = 0
) -> list[VideoItem]:
    """The items with further sounds to score their frames against.

    ``shuffled`` is the sound of another item, of another folder where possible; an item alone, or without a
    file, has none. ``shifted:<k>`` is the own sound, k frames early.
    """
    there = [item for item in items if item.path.is_file()]
    groups = [item.name.rpartition("/")[0] for item in there]
    donors = deranged([item.name for item in there], groups, seed) if shuffled else {}
    paths = {item.name: item.path for item in there}
    shifts = {f"{SHIFTED}:{k}": Sound(shift=k) for k in range(-max_shift, max_shift + 1) if max_shift}
    return [
        replace(
            item,
            probes={
                **item.probes,
                **({SHUFFLED: Sound(paths[donors[item.name]])} if item.name in donors else {}),
                **shifts,
            },
        )
        for item in items
    ]


def generators_of(items: Iterable[VideoItem]) -> list[GeneratorInfo]:
    """Who made the videos, as far as the files themselves say; each generator once.

    A file that cannot be read says nothing here; scoring it reports why.
    """
    found: dict[str, Provenance] = {}
    for item in items:
        try:
            provenance = read_provenance(item.path)
        except MediaError:
            continue
        if provenance is not None:
            found.setdefault(provenance.generator, provenance)
    return [GeneratorInfo(digest[:12], digest, known.experts) for digest, known in found.items()]


def _plan(name: str, items: Sequence[VideoItem], jobs: Sequence[Job] = (), notes: Sequence[str] = ()) -> Plan:
    return Plan(name, *_LABELS[name], items, jobs, notes)


def _wanted(systems: Sequence[str] | None, max_shift: int) -> set[str]:
    _check_shift(max_shift)
    wanted = set(DEFAULT_SYSTEMS if systems is None else systems)
    unknown = sorted(wanted - set(SYSTEMS))
    if unknown:
        raise ConfigError(f"systems: {', '.join(unknown)} is unknown; use {', '.join(SYSTEMS)}")
    if SHIFTED in wanted and not max_shift:
        raise ConfigError("systems=[shifted] needs the shifts to try; give max_shift=N, in frames")
    if not wanted:
        raise ConfigError(f"systems=[] leaves nothing to do; use {', '.join(SYSTEMS)}")
    return wanted | {SHIFTED} if max_shift else wanted


def _check_shift(max_shift: int) -> None:
    if not 0 <= max_shift <= VSHIFT:
        raise ConfigError(f"max_shift={max_shift}: give 0 to {VSHIFT} frames, as far as judges look")


def _real(name: str, path: Path) -> VideoItem:
    return VideoItem(name, path, expects_reference=False, system="real")


def _lonely(count: int) -> list[str]:
    if count != 1:
        return []
    return ["There is one clip: no other one to take a sound from, so rows that need one are missing."]


Made = list[tuple[VideoItem, Job]]


def _made(
    system: str, clip: Clip, audio: Path | None, folder: Path, name: str | None = None
) -> tuple[VideoItem, Job]:
    """One video to generate on the face of ``clip``, and how it is scored."""
    name = name or clip.name
    path = folder / f"{name}.mp4"
    sound = Sound(clip.path) if system == "silence" else Sound()
    item = VideoItem(name, path, clip.path, paired=system == "reconstruction", sound=sound, system=system)
    return item, Job(clip.path, audio, path, static=system == "static")


def _own_speech(system: str) -> Callable[[ClipList, Path, int], Made]:
    return lambda listed, folder, seed: [_made(system, clip, clip.path, folder) for clip in listed.clips]


def _silence(listed: ClipList, folder: Path, seed: int) -> Made:
    return [_made("silence", clip, None, folder) for clip in listed.clips]


def _cross(listed: ClipList, folder: Path, seed: int) -> Made:
    pairs = listed.pairs
    if pairs is None:
        return _crossed(listed.clips, folder, seed)
    repeated = _repeats(pairs)
    return [
        _made("cross", face, sound.path, folder, f"{face.name}__{sound.name}" if repeated else None)
        for sound, face in pairs
    ]


def _repeats(pairs: Sequence[tuple[Clip, Clip]]) -> bool:
    """Whether a face stands in several pairs."""
    return len({face for _, face in pairs}) < len(pairs)


def _crossed(clips: Sequence[Clip], folder: Path, seed: int) -> Made:
    there = {clip.name: clip for clip in clips if clip.path.is_file()}
    donors = deranged(list(there), [clip.speaker for clip in there.values()], seed)
    # A clip without a file keeps its row and fails for that reason.
    return [
        _made("cross", clip, there[donors[clip.name]].path if clip.name in donors else clip.path, folder)
        for clip in clips
        if clip.name in donors or clip.name not in there
    ]


_MADE: Mapping[str, Callable[[ClipList, Path, int], Made]] = {
    "reconstruction": _own_speech("reconstruction"),
    "cross": _cross,
    "static": _own_speech("static"),
    "silence": _silence,
}
