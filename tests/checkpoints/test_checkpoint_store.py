"""Names, cache, verification, and downloads against a server on this machine that misbehaves on demand."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipsync.checkpoints import catalog, download, store
from lipsync.checkpoints.catalog import CATALOG, CheckpointSpec
from lipsync.checkpoints.kinds import Kind
from lipsync.checkpoints.loading import load_weights
from lipsync.checkpoints.progress import DownloadBar
from lipsync.errors import CheckpointError

BODY = bytes(range(256)) * 4096


class Server(ThreadingHTTPServer):
    """Serves ``body`` at any address; what else it does depends on the first part of the path.

    /file     ranges honoured       /norange  ranges ignored      /cut      hangs up after ``cut`` bytes
    /missing  404                   /login    a web page          /chunked  no length told
    /wrong    other bytes           /shifted  an answer for another range
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.cut = 100_000
        self.requests: list[tuple[str, str | None]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: the client hangs up on purpose."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        mode, asked = self.path.strip("/").split("/")[0], self.headers.get("Range")
        self.server.requests.append((mode, asked))
        if mode == "missing":
            self.send_error(404)
            return
        body = self.server.body if mode != "wrong" else self.server.body[::-1]
        if mode == "login":
            body = b"<!DOCTYPE html><html>sign in</html>"
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and mode != "norange" else 0  # type: ignore[index]
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            told = start + (1 if mode == "shifted" else 0)
            self.send_header("Content-Range", f"bytes {told}-{len(body) - 1}/{len(body)}")
        if mode == "login":
            self.send_header("Content-Type", "text/html; charset=utf-8")
        if mode != "chunked":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        sent = body[start:] if mode != "cut" else body[start : start + self.server.cut]
        self.wfile.write(sent)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def publish(
    monkeypatch: pytest.MonkeyPatch, *urls: str, sha256: str | None = hashlib.sha256(BODY).hexdigest()
) -> None:
    spec = CheckpointSpec(
        name="thing",
        filename="thing.pth",
        urls=urls,
        sha256=sha256,
        size=None,
        licence="MIT",
        kind=Kind.UNKNOWN,
        page="https://example.org/thing",
    )
    monkeypatch.setitem(catalog.CATALOG, "thing", spec)


def test_a_name_is_downloaded_once_and_progress_is_told(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server.url("file"))
    steps: list[tuple[str, int, int | None]] = []
    path = store.resolve("thing", lambda *step: steps.append(step))
    assert path == cache / "thing.pth"
    assert path.read_bytes() == BODY
    assert steps[-1] == ("thing", len(BODY), len(BODY))
    assert store.locate("thing") == (path, hashlib.sha256(BODY).hexdigest())
    assert len(server.requests) == 1
    assert not list(cache.glob("*.part"))


def test_an_interrupted_download_goes_on_where_it_stopped(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server.url("cut"))
    server.cut = 400_000
    assert store.resolve("thing").read_bytes() == BODY
    assert [asked for _, asked in server.requests] == [None, "bytes=400000-", "bytes=800000-"]


def test_a_part_of_an_earlier_run_is_used(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server.url("file"))
    cache.mkdir()
    (cache / "thing.pth.part").write_bytes(BODY[:1000])
    assert store.resolve("thing").read_bytes() == BODY
    assert server.requests == [("file", "bytes=1000-")]


def test_a_complete_part_is_only_verified(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server.url("file"))
    cache.mkdir()
    (cache / "thing.pth.part").write_bytes(BODY)
    assert store.resolve("thing").read_bytes() == BODY
    assert server.requests == [("file", f"bytes={len(BODY)}-")]


@pytest.mark.parametrize("part", [b"\x00" * 1000, b"\x00" * (len(BODY) + 5)], ids=["other start", "too long"])
def test_a_wrong_part_is_fetched_again_from_the_start(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    publish(monkeypatch, server.url("file"))
    cache.mkdir()
    (cache / "thing.pth.part").write_bytes(part)
    assert store.resolve("thing").read_bytes() == BODY
    assert server.requests[-1] == ("file", None)


@pytest.mark.parametrize("mode", ["norange", "chunked"])
def test_servers_without_ranges_or_lengths(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    publish(monkeypatch, server.url(mode))
    cache.mkdir()
    if mode == "norange":
        (cache / "thing.pth.part").write_bytes(BODY[:1000])
    assert store.resolve("thing").read_bytes() == BODY


def test_the_next_address_is_tried(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, server.url("missing"), server.url("login"), server.url("wrong"), server.url("file"))
    assert store.resolve("thing").read_bytes() == BODY
    assert [mode for mode, _ in server.requests] == ["missing", "login", "wrong", "file"]


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("missing", "HTTP 404"),
        ("login", "a web page instead of the file"),
        ("wrong", "SHA-256 differs"),
        ("shifted", "another range"),
    ],
)
def test_a_failed_download_says_why_where_from_and_where_to(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, mode: str, words: str
) -> None:
    publish(monkeypatch, server.url(mode))
    cache.mkdir()
    if mode == "shifted":
        (cache / "thing.pth.part").write_bytes(BODY[:1000])
    with pytest.raises(CheckpointError, match=words) as error:
        store.resolve("thing")
    message = str(error.value)
    assert "https://example.org/thing" in message
    assert f"put it at {cache / 'thing.pth'}" in message
    assert "\n" not in message
    assert not (cache / "thing.pth").exists()


def test_an_address_that_brings_nothing_is_given_up(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server.url("cut"))
    server.cut = 0
    with pytest.raises(CheckpointError, match="the connection broke"):
        store.resolve("thing")
    assert len(server.requests) == download.ATTEMPTS


def test_offline_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Server()
    closed.server_close()
    publish(monkeypatch, closed.url("file"), "ftp://example.org/x")
    with pytest.raises(CheckpointError, match="refused") as error:
        store.resolve("thing")
    assert "\n" not in str(error.value)
    assert "is not a web address" in str(error.value)


def test_a_file_put_there_by_hand_is_verified(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch)
    cache.mkdir()
    path = cache / "thing.pth"
    path.write_bytes(BODY)
    assert store.resolve("thing") == path
    path.write_bytes(BODY[:-1])
    with pytest.raises(CheckpointError, match="delete the file") as error:
        store.resolve("thing")
    assert str(path) in str(error.value)
    path.write_bytes(b"<html>sign in</html>")
    with pytest.raises(CheckpointError, match="web page"):
        store.resolve("thing")


def test_without_a_published_hash_the_first_use_counts(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server.url("file"), sha256=None)
    path = store.resolve("thing")
    recorded = (cache / "thing.pth.sha256").read_text()
    assert recorded == f"{hashlib.sha256(BODY).hexdigest()}  thing.pth\n"
    assert store.resolve("thing") == path
    path.write_bytes(BODY + b"!")
    with pytest.raises(CheckpointError, match="recorded at first use"):
        store.resolve("thing")


def test_processes_that_ask_at_once_download_once(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, server.url("file"))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(store.resolve("thing"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / "thing.pth"] * 4
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LIPSYNC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match="LIPSYNC_CACHE"):
        store.resolve("syncnet_v2")


def test_paths_and_names(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"abc")
    assert store.resolve(path) == store.resolve(str(path)) == path
    with pytest.raises(CheckpointError, match="no such file"):
        store.resolve("checkpoints/wav2lip.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        store.resolve(tmp_path)
    with pytest.raises(CheckpointError, match=r"did you mean wav2lip_gan; known names: wav2lip,") as error:
        store.resolve("wav2lip-gan")
    assert all(name in str(error.value) for name in CATALOG)


def test_the_default_cache_lies_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIPSYNC_CACHE", raising=False)
    assert store.cache_folder() == Path.home() / ".cache" / "lipsync" / "checkpoints"


def test_weights_load_by_name(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    server.body = (tmp_path / "w.pth").read_bytes()
    digest = hashlib.sha256(server.body).hexdigest()
    publish(monkeypatch, server.url("file"), sha256=digest)
    loaded = load_weights(target, "thing")
    assert torch.equal(source.weight, target.weight)
    assert (loaded.path, loaded.sha256) == (cache / "thing.pth", digest)


def test_the_catalogue_is_sound() -> None:
    assert set(CATALOG) >= {
        "wav2lip",
        "wav2lip_gan",
        "lipsync_expert",
        "visual_quality_disc",
        "s3fd",
        "syncnet_v2",
        "wav2lip_paddle",
        "yunet",
        "gfpgan_v1.3",
        "gfpgan_v1.4",
        "face_parsing",
        "parsenet",
    }
    names = [spec.filename for spec in CATALOG.values()]
    assert len(set(names)) == len(names)
    for spec in CATALOG.values():
        assert spec.licence
        assert spec.page.startswith("https://")
        assert all(re.match(r"https?://", url) for url in spec.urls)
        assert spec.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", spec.sha256)
        # Bytes of two addresses may be joined in one download: without a hash that would go unnoticed.
        assert spec.sha256 is not None or len(spec.urls) == 1
        assert all(url.startswith("https://") for url in spec.urls) or spec.sha256 is not None
    # The file name carries the first digits of its own hash.
    assert (CATALOG["s3fd"].sha256 or "").startswith("619a316812")
    assert "s3fd-619a316812" in CATALOG["s3fd"].filename


def test_the_bar_draws_on_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
    with DownloadBar():
        pass
    assert capfd.readouterr() == ("", "")
    with DownloadBar() as bar:
        bar("thing", 10, 100)
        bar("thing", 100, 100)
    assert capfd.readouterr().out == ""
