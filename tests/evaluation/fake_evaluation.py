"""A seeded evaluation that never ran: all systems, failures, odd names, curves and thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from lipsync.evaluation.columns import SYNC, Column
from lipsync.evaluation.results import Evaluation, GeneratorInfo, JudgeInfo, SystemResult, VideoResult

IMAGE = (
    Column("psnr", "PSNR", "image", "higher", "dB", 2, "Peak signal-to-noise ratio of the whole frame."),
    Column(
        "psnr_mouth", "PSNR mouth", "image", "higher", "dB", 2, "As PSNR, on the mouth's half of the face."
    ),
    Column("ssim", "SSIM", "image", "higher", digits=4, about="Structural similarity of the whole frame."),
    Column("fid", "FID", "image", "lower", digits=2, about="Fréchet distance of features.", per_video=False),
    Column("n_frames_compared", "frames compared", "image", digits=0),
)
OTHERS = (
    Column("csim", "CSIM", "identity", "higher", about="Cosine of the face's embedding and the reference's."),
    Column("lmd", "LMD", "landmarks", "lower", "px", 2, "Mean distance of mouth landmarks."),
    Column("lpips", "LPIPS", "image", "lower", about="Never measured here."),
)
COLUMNS = (*SYNC, *IMAGE, *OTHERS)
SHA = {"judge": "ab12" * 16, "generator": "cd34" * 16}

#        name              lse_d  lse_c  in sync  psnr  label and about
SYSTEMS = {
    "real": (
        6.7,
        7.6,
        0.97,
        None,
        "unmodified clips",
        "The clips as they are: what a perfect system reaches.",
    ),
    "reconstruction": (6.9, 7.1, 0.93, 33.0, "Wav2Lip, own sound", "Generated from the clip's own sound."),
    "cross": (7.3, 6.6, 0.88, None, "Wav2Lip, other sound", "Generated from another clip's sound."),
    "static": (7.6, 6.1, 0.85, 29.5, "Wav2Lip, still image", "Generated from the first frame only."),
    "shifted": (6.8, 7.5, 0.96, None, "shifted sound", "Real frames, sound moved by known amounts."),
    "silence": (12.5, 1.0, 0.1, 31.0, "silence", "Generated from digital silence: lips should rest."),
    "shuffled": (
        13.2,
        0.8,
        0.1,
        None,
        "shuffled sound",
        "Real frames with another clip's sound: chance level.",
    ),
}


def thumbnail(index: int) -> str:
    """A small drawn JPEG in base64."""
    image = np.full((48, 48, 3), (40 + 3 * index % 150, 90, 120), np.uint8)
    cv2.circle(image, (24, 22), 14, (150, 190, 230), -1)
    cv2.ellipse(image, (24, 28), (6, 2 + index % 4), 0, 0, 360, (60, 60, 180), -1)
    return base64.b64encode(cv2.imencode(".jpg", image)[1].tobytes()).decode()


def names(n: int) -> list[str]:
    """Names that need escaping among ordinary ones."""
    odd = ["a <b>&amp; | \"q\" 'x'.mp4", "ünïcødé/口型\u2028🙂.mp4", "<script>alert(1)</script>.mp4"]
    return (odd + [f"speaker_{i % 7:02d}/{i:05d}.mp4" for i in range(n)])[:n]


def fake_evaluation(
    n: int = 60,
    systems: Sequence[str] = tuple(SYSTEMS),
    *,
    main: str = "reconstruction",
    trained: bool = False,
    judged: bool = True,
    seed: int = 0,
    gain: float = 0.0,
    thumbnails: Sequence[str] | None = None,
) -> Evaluation:
    """``n`` videos of each system; ``gain`` is added to LSE-C and PSNR and taken from LSE-D."""
    generator = np.random.default_rng(seed)
    hard = np.random.default_rng(99).gamma(2.0, 0.45, n)
    results = [
        _system(name, hard, generator, judged=judged, gain=gain, thumbnails=thumbnails) for name in systems
    ]
    trained_with = [SHA["judge"]] if trained else ["99" * 32]
    return Evaluation(
        systems=results,
        main=main,
        columns=COLUMNS,
        judge=JudgeInfo("syncnet_v2", "lse", SHA["judge"]) if judged else None,
        protocol="wild",
        protocol_description="Shots, face tracks of at least 100 frames, crops of 224 px at 25 fps."
        if judged
        else None,
        generators=[GeneratorInfo("wav2lip.pth", SHA["generator"], trained_with)],
        notes=["FVD is missing: give metrics.fvd=FILE."],
        settings={"protocol": "wild", "videos": "clips/<x>", "seed": 0, "limit": float("inf")},
    )


def _system(name, hard, generator, *, judged, gain, thumbnails):
    label, about = SYSTEMS[name][4:]
    given = {"judged": judged, "gain": gain, "thumbnails": thumbnails}
    videos = [_video(name, v, i, hard[i], generator, **given) for i, v in enumerate(names(len(hard)))]
    fid = {"reconstruction": 4.4, "cross": 5.9, "static": 9.1}.get(name)
    notes = ["FID of 60 videos is biased upwards; compare equal numbers only."] if fid else []
    return SystemResult(name, label, about, videos, {"fid": fid - gain} if fid else {}, notes)


def _video(name, video, index, hard, generator, *, judged, gain, thumbnails):
    d, c, share, psnr = SYSTEMS[name][:4]
    values = {"fps": 25.0, "width": 224, "height": 224, "n_frames": 75 + index, "duration": 3 + index / 25}
    reasons, curve, offsets = {}, (), {}
    lost = judged and index % 20 == 7
    if lost:
        reasons["sync"] = "no audio stream" if index % 40 == 7 else "no face track of 100 frames <or more>"
    elif judged:
        good = generator.random() < share
        values |= {
            "lse_d": d + hard * 0.8 + generator.normal(0, 0.35) - gain,
            "lse_c": max(0.05, c - hard * 1.2 + generator.normal(0, 0.6) + gain),
            "offset": int(generator.integers(-1, 2)) if good else int(generator.integers(-12, 13)),
            "n_tracks": 1,
            "n_windows": 70 + index,
        }
        frames = np.arange(70 + index)
        wave = np.sin(frames / 9 + index) + 0.4 * np.sin(frames / 2.3)
        curve = tuple(float(v) for v in values["lse_c"] + 1.3 * wave + generator.normal(0, 0.3, len(frames)))
    if name == "shifted" and not lost and judged:
        offsets = {
            str(k): k if generator.random() < 0.96 else k + int(generator.integers(-9, 9))
            for k in range(-10, 11, 2)
        }
        values["shift_exact"] = sum(int(k) == v for k, v in offsets.items()) / len(offsets)
        values["n_shifts"] = len(offsets)
    if psnr is not None and index % 13 == 5:
        reasons["image"] = "no reference of this name"
    elif psnr is not None:
        values["psnr"] = float("inf") if index == 3 else psnr - hard + generator.normal(0, 1) + gain
        values["psnr_mouth"] = psnr - 6 - hard + generator.normal(0, 1.2) + gain
        values["ssim"] = float(1 - 0.03 * hard - 0.01 * generator.random())
        values["n_frames_compared"] = 70 + index
    if name not in ("real", "shuffled", "shifted"):
        values["csim"] = float(0.93 - 0.05 * hard + generator.normal(0, 0.01))
        values["lmd"] = float(1.2 + 0.6 * hard + generator.normal(0, 0.1))
    picture = thumbnails[index % len(thumbnails)] if thumbnails else thumbnail(index)
    return VideoResult(
        video,
        f"clips/{video}",
        values,
        reasons,
        confidence=curve,
        confidence_start=2,
        offsets=offsets,
        notes=["30 fps: <the protocol> was made for 25"] if index == 9 else (),
        thumbnail=None if index == 4 else picture,
    )
