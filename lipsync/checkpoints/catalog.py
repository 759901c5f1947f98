"""Released weights by name: where they are, what they must hash to and what their licence allows.

None of these files belongs to this project or is shipped with it; the licence of each is its authors'.
"""

from __future__ import annotations

from dataclasses import dataclass

from lipsync.checkpoints.kinds import Kind

_WAV2LIP_PAGE = "https://github.com/Rudrabha/Wav2Lip#getting-the-weights"
_WAV2LIP_LICENCE = "research and personal use only, no commercial use (trained on LRS2)"
_RELEASE = "https://github.com/justinjohn0306/Wav2Lip/releases/download/models"
_MIRROR = "https://huggingface.co/camenduru/Wav2Lip/resolve/main/checkpoints"
_GFPGAN = "https://github.com/TencentARC/GFPGAN/releases/download"
_GFPGAN_LICENCE = "Apache-2.0 (GFPGAN); trained on FFHQ, which is not for commercial use"
_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download"
_CELEBA = "trained on CelebAMask-HQ, which is not for commercial use"
_ROTS = "the SharePoint addresses on the Wav2Lip page are dead; mirrors of the same bytes are used"


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """One released file.

    Attributes:
        name: What the user writes.
        filename: Name in the cache folder, and of a file put there by hand.
        urls: Direct addresses, tried in order; all serve the same bytes.
        sha256: 64 hex digits; None where nobody published one (then the first download is trusted).
        size: Bytes, where known.
        licence: What the authors allow.
        kind: Network inside; UNKNOWN for formats that are not state dicts (ONNX).
        page: Where a person finds the file when the addresses fail.
        note: What to know about the file or its addresses.
    """

    name: str
    filename: str
    urls: tuple[str, ...]
    sha256: str | None
    size: int | None
    licence: str
    kind: Kind
    page: str
    note: str = ""


_SPECS = (
    CheckpointSpec(
        name="wav2lip",
        filename="wav2lip.pth",
        urls=(f"{_RELEASE}/wav2lip.pth", f"{_MIRROR}/wav2lip.pth"),
        sha256="b78b681b68ad9fe6c6fb1debc6ff43ad05834a8af8a62ffc4167b7b34ef63c37",
        size=435_807_851,
        licence=_WAV2LIP_LICENCE,
        kind=Kind.GENERATOR,
        page=_WAV2LIP_PAGE,
        note=_ROTS,
    ),
    CheckpointSpec(
        name="wav2lip_gan",
        filename="wav2lip_gan.pth",
        urls=(f"{_RELEASE}/wav2lip_gan.pth", f"{_MIRROR}/wav2lip_gan.pth"),
        sha256="ca9ab7b7b812c0e80a6e70a5977c545a1e8a365a6c49d5e533023c034d7ac3d8",
        size=435_801_865,
        licence=_WAV2LIP_LICENCE,
        kind=Kind.GENERATOR,
        page=_WAV2LIP_PAGE,
        note=_ROTS,
    ),
    CheckpointSpec(
        name="wav2lip_sd_gan",
        filename="Wav2Lip-SD-GAN.pt",
        urls=(
            "https://drive.usercontent.google.com/download"
            "?id=15G3U08c8xsCkOqQxE38Z2XXDnPcOptNk&export=download&confirm=t",
        ),
        sha256="180cfd49d31d47f195d5bfc62830ffe2c40724b7bbbce6faadc73ac6ab1a3b8e",
        size=145_829_145,
        licence=_WAV2LIP_LICENCE,
        kind=Kind.GENERATOR,
        page=_WAV2LIP_PAGE,
        note="what the Wav2Lip page links to today, a TorchScript archive; Google Drive limits its traffic",
    ),
    CheckpointSpec(
        name="wav2lip_paddle",
        filename="wav2lip_hq.pdparams",
        urls=("https://paddlegan.bj.bcebos.com/models/wav2lip_hq.pdparams",),
        sha256=None,
        size=None,
        licence="Apache-2.0 (PaddleGAN); trained on LRS2, whose terms exclude commercial use",
        kind=Kind.GENERATOR,
        page="https://github.com/PaddlePaddle/PaddleGAN/blob/develop/docs/en_US/tutorials/wav2lip.md",
        note="no published checksum: the first download is trusted and recorded",
    ),
    CheckpointSpec(
        name="lipsync_expert",
        filename="lipsync_expert.pth",
        urls=(f"{_MIRROR}/lipsync_expert.pth",),
        sha256="9b9936c721696446eeed353032cab242a8cf0eed8c46cde540366f6ae5493be5",
        size=None,
        licence=_WAV2LIP_LICENCE,
        kind=Kind.EXPERT,
        page=_WAV2LIP_PAGE,
        note=_ROTS,
    ),
    CheckpointSpec(
        name="visual_quality_disc",
        filename="visual_quality_disc.pth",
        urls=(f"{_MIRROR}/visual_quality_disc.pth",),
        sha256="b3f8f6f7e954af02f2ffe0f3ea11f3259af89bff6e70933001c7c6bc8c145d96",
        size=None,
        licence=_WAV2LIP_LICENCE,
        kind=Kind.CRITIC,
        page=_WAV2LIP_PAGE,
        note=_ROTS,
    ),
    CheckpointSpec(
        name="s3fd",
        filename="s3fd-619a316812.pth",
        urls=(
            "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
            f"{_MIRROR}/s3fd-619a316812.pth",
        ),
        sha256="619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
        size=89_843_225,
        licence="BSD-3-Clause code (face-alignment); trained on WIDER FACE, which is for research",
        kind=Kind.S3FD,
        page="https://github.com/1adrianb/face-alignment",
        note="the first address is slow and at times answers 404",
    ),
    CheckpointSpec(
        name="sfd_face",
        filename="sfd_face.pth",
        urls=("https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/sfd_face.pth",),
        sha256="d54a87c2b7543b64729c9a25eafd188da15fd3f6e02f0ecec76ae1b30d86c491",
        size=89_844_381,
        licence="see the page; trained on WIDER FACE, which is for research",
        kind=Kind.S3FD_SYNCNET_PYTHON,
        page="https://github.com/joonson/syncnet_python",
        note="detector of the LSE protocol",
    ),
    CheckpointSpec(
        name="syncnet_v2",
        filename="syncnet_v2.model",
        urls=(
            "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
            "http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        ),
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        size=54_573_114,
        licence="MIT (syncnet_python)",
        kind=Kind.LSE_SYNCNET,
        page="https://github.com/joonson/syncnet_python",
        note="judge of LSE-D and LSE-C",
    ),
    CheckpointSpec(
        name="yunet",
        filename="face_detection_yunet_2023mar.onnx",
        urls=(
            "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
            "face_detection_yunet_2023mar.onnx",
            "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
            "face_detection_yunet_2023mar.onnx",
        ),
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        size=232_589,
        licence="MIT (OpenCV Zoo)",
        kind=Kind.UNKNOWN,
        page="https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet",
        note="ONNX, read by OpenCV and not by load_state",
    ),
    CheckpointSpec(
        name="gfpgan_v1.3",
        filename="GFPGANv1.3.pth",
        urls=(f"{_GFPGAN}/v1.3.0/GFPGANv1.3.pth",),
        sha256="c953a88f2727c85c3d9ae72e2bd4846bbaf59fe6972ad94130e23e7017524a70",
        size=348_632_874,
        licence=_GFPGAN_LICENCE,
        kind=Kind.GFPGAN,
        page="https://github.com/TencentARC/GFPGAN",
        note="more natural results than 1.2",
    ),
    CheckpointSpec(
        name="gfpgan_v1.4",
        filename="GFPGANv1.4.pth",
        urls=(f"{_GFPGAN}/v1.3.0/GFPGANv1.4.pth", f"{_GFPGAN}/v1.3.4/GFPGANv1.4.pth"),
        sha256="e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
        size=348_632_874,
        licence=_GFPGAN_LICENCE,
        kind=Kind.GFPGAN,
        page="https://github.com/TencentARC/GFPGAN",
        note="slightly more detail than 1.3, nearer to the person",
    ),
    CheckpointSpec(
        name="face_parsing",
        filename="79999_iter.pth",
        urls=(
            f"{_FACEXLIB}/v0.2.0/parsing_bisenet.pth",
            "https://huggingface.co/ManyOtherFunctions/face-parse-bisent/resolve/main/79999_iter.pth",
        ),
        sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        size=53_289_463,
        licence=f"MIT (face-parsing.PyTorch); {_CELEBA}",
        kind=Kind.BISENET,
        page="https://github.com/zllrunning/face-parsing.PyTorch",
        note="the page links to Google Drive; mirrors of the same bytes are used",
    ),
    CheckpointSpec(
        name="parsenet",
        filename="parsing_parsenet.pth",
        urls=(f"{_FACEXLIB}/v0.2.2/parsing_parsenet.pth",),
        sha256="3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
        size=85_331_193,
        licence=f"MIT (facexlib); {_CELEBA}",
        kind=Kind.PARSENET,
        page="https://github.com/xinntao/facexlib",
        note="the parser of the GFPGAN package",
    ),
)

CATALOG: dict[str, CheckpointSpec] = {spec.name: spec for spec in _SPECS}
"""Released files by name."""
