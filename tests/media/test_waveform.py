"""Sound from any container, on the clock of its video."""

from __future__ import annotations

import wave

import numpy as np
import pytest

from lipsync.errors import MediaError
from lipsync.media import waveform as module
from lipsync.media.waveform import audio_format, decode_audio, load_waveform, save_wav

RATE = 16000


def impulses(seconds: float, *at: float, rate: int = RATE) -> np.ndarray:
    result = np.zeros(round(rate * seconds), np.float32)
    for time in at:
        result[round(time * rate)] = 0.9
    return result


def peak(waveform: np.ndarray) -> int:
    return int(np.abs(waveform).argmax())


def test_wav_round_trip_is_exact(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.float32) / 32768
    save_wav(tmp_path / "new" / "é 口.wav", samples, RATE)
    np.testing.assert_array_equal(load_waveform(tmp_path / "new" / "é 口.wav"), samples)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["é 口.wav"]


def test_wav_clips_and_rounds(tmp_path):
    save_wav(tmp_path / "a.wav", np.array([2.0, -2.0, 0.6 / 32768, -0.6 / 32768]), 8000)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        assert np.frombuffer(file.readframes(9), "<i2").tolist() == [32767, -32768, 1, -1]


def test_wav_errors(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="cannot be written"):
        save_wav(tmp_path / "file" / "a.wav", np.zeros(10), RATE)
    for bad in (np.zeros((2, 10)), np.zeros(10, np.int16)):
        with pytest.raises(ValueError, match="waveform"):
            save_wav(tmp_path / "a.wav", bad, RATE)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(MediaError, match="cannot be written"):
        save_wav(tmp_path / "folder.wav", np.zeros(10), RATE)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(("codec", "suffix"), [("aac", ".mp4"), ("aac", ".m4a"), ("pcm_s16le", ".wav")])
def test_stated_length_and_position(make, codec, suffix):
    path = make(f"a{suffix}", times=[], waveform=impulses(1.51, 0.7), audio_codec=codec)
    result = load_waveform(path)
    assert result.dtype == np.float32
    assert result.size == round(1.51 * RATE)
    assert abs(peak(result) - 0.7 * RATE) <= 3


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libmp3lame", ".mp3"), ("libopus", ".webm"), ("flac", ".flac"), ("mp2", ".mpg")]
)
def test_other_containers(make, codec, suffix):
    times = range(40) if suffix == ".mpg" else []
    waveform = impulses(1.5, 0.7, rate=48000)
    path = make(
        f"a{suffix}", times=times, waveform=waveform, audio_rate=48000, audio_codec=codec, codec="mpeg1video"
    )
    result = load_waveform(path)
    assert result.size == pytest.approx(1.5 * RATE, abs=0.07 * RATE)
    # without a video the sound starts at its first sample; MPEG program streams carry the encoder's delay
    assert abs(peak(result) - 0.7 * RATE) <= 0.045 * RATE


def test_stereo_is_averaged(make):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    path = make("a.wav", times=[], waveform=np.stack([tone, -tone]), audio_codec="pcm_s16le")
    assert audio_format(path) == (RATE, 2)
    assert np.abs(load_waveform(path)).max() < 1e-3
    path = make("b.wav", times=[], waveform=np.stack([tone, tone]), audio_codec="pcm_s16le")
    np.testing.assert_allclose(load_waveform(path), tone, atol=1e-4)


@pytest.mark.parametrize("source", [8000, 22050, 44100, 48000])
def test_resampling_keeps_time_and_level(tmp_path, source):
    t = np.arange(source) / source
    save_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), source)
    result = load_waveform(tmp_path / "a.wav", RATE)
    assert result.size == RATE
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(result[200:-200], expected[200:-200], atol=2e-3)


def test_resampling_removes_what_would_alias(tmp_path):
    t = np.arange(48000) / 48000
    save_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 11000 * t), 48000)
    assert np.abs(load_waveform(tmp_path / "a.wav", RATE)[500:-500]).max() < 0.01


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_late_sound_is_padded(make, suffix):
    path = make(f"a{suffix}", times=range(50), waveform=impulses(1.0, 0.5), audio_start=RATE // 2)
    result = load_waveform(path)
    assert abs(peak(result) - RATE) <= 24  # Matroska counts milliseconds
    assert np.abs(result[: RATE // 2 - 100]).max() < 0.01
    assert result.size == pytest.approx(1.5 * RATE, abs=1024)  # the padding of the last packet


def test_early_sound_is_trimmed(make):
    path = make("a.mkv", times=range(25, 50), waveform=impulses(2.0, 1.5))
    result = load_waveform(path)
    assert abs(peak(result) - 0.5 * RATE) <= 24
    assert result.size == pytest.approx(RATE, abs=1024)


def test_lost_packets_leave_silence_not_a_shift(make):
    path = make("a.ts", times=range(100), waveform=impulses(4.0, 3.5), codec="mpeg2video")
    whole = peak(load_waveform(path))
    data = path.read_bytes()
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    sound = [i for i, p in enumerate(packets) if ((p[1] & 0x1F) << 8 | p[2]) == 0x101]
    lost = set(sound[len(sound) // 3 : len(sound) // 2])
    path.write_bytes(b"".join(p for i, p in enumerate(packets) if i not in lost))
    assert abs(peak(load_waveform(path)) - whole) <= 0.041 * RATE


def test_understated_length_is_not_believed(make, monkeypatch):
    path = make("a.mp4", times=[], waveform=impulses(2.0, 1.5))
    monkeypatch.setattr(module, "_stated_end", lambda container, stream: RATE)
    assert load_waveform(path).size >= 2 * RATE


def test_decoding_streams_in_chunks(make):
    path = make("a.mp4", waveform=np.zeros((2, 44100)), audio_rate=44100)
    chunks = list(decode_audio(path))
    assert len(chunks) > 10
    assert all(chunk.shape[0] == 2 and chunk.dtype == np.float32 for chunk in chunks)
    assert sum(chunk.shape[1] for chunk in chunks) == 44100


def test_files_without_usable_sound(tmp_path, make):
    with pytest.raises(MediaError, match="has no audio stream"):
        load_waveform(make("mute.mp4"))
    with wave.open(str(tmp_path / "zero.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
    with pytest.raises(MediaError, match=r"zero\.wav"):
        load_waveform(tmp_path / "zero.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello, this is no sound")
    for name in ("none.wav", "empty.wav", "text.wav", "."):
        with pytest.raises(MediaError) as caught:
            load_waveform(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_real_sound(shared):
    raw = shared / "data/raw"
    assert load_waveform(raw / "audio/speech_3.wav").size == 128000
    assert load_waveform(raw / "wild/vox_224.mp4").size == 157440
    mpeg = load_waveform(raw / "grid_s1/bbaf2n.mpg")
    assert mpeg.size == round(265665 / 90000 * RATE)
    assert 0.01 < np.abs(mpeg).max() <= 1
    # the video of this file starts 33 ms after its sound
    late = load_waveform(raw / "wild/retalk_man_22fps_700.mp4", 44100)
    assert late.size == pytest.approx(269319 - 507 / 15360 * 44100, abs=8)
