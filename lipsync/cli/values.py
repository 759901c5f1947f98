"""Settings of a type the code can count on, or one clear line about the one that is not."""

from __future__ import annotations

from fractions import Fraction

from omegaconf import DictConfig, OmegaConf

from lipsync.errors import ConfigError


def require(cfg: DictConfig, *keys: str) -> None:
    """Raise ConfigError for a mandatory setting that was set to null."""
    for key in keys:
        if OmegaConf.select(cfg, key) is None:
            raise ConfigError(f"{key}=null: give {key}=...")


def whole(cfg: DictConfig, key: str) -> int:
    """A whole number."""
    if not _is_whole(cfg[key]):
        raise ConfigError(f"{key}={cfg[key]}: give a whole number")
    return int(cfg[key])


def flag(cfg: DictConfig, key: str) -> bool:
    """True or false."""
    if not isinstance(cfg[key], bool):
        raise ConfigError(f"{key}={cfg[key]}: give true or false")
    return bool(cfg[key])


def four(cfg: DictConfig, key: str) -> tuple[int, int, int, int] | None:
    """Top, bottom, left and right in pixels; None for null or a group without this setting."""
    value = cfg.get(key)
    if value is None:
        return None
    numbers = OmegaConf.to_container(value) if OmegaConf.is_list(value) else None
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_is_whole, numbers)):
        raise ConfigError(f"{key}={value}: give four whole numbers, {key}=[top,bottom,left,right]")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def rate(cfg: DictConfig, key: str) -> Fraction:
    """A frame rate written as 25, 29.97 or 30000/1001."""
    try:
        return Fraction(str(cfg[key]))
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{key}={cfg[key]}: give a number or a fraction such as 30000/1001") from error


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
