"""The configuration file, read: what is in it is ``config``'s, which reads no files."""

from collections.abc import Mapping
from pathlib import Path

from slo_autoscaler.config import Config
from slo_autoscaler.errors import ConfigError


def read_config(path: str, overrides: Mapping[str, object] | None = None) -> Config:
    """Return the configuration in the file, with what overrides it. Raises ``ConfigError``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: must be UTF-8 text"]) from None
    return Config.parse(text, path, overrides)
