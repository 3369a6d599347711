"""config.toml, the environment and the flags, made into one checked `Config`.

Flags beat the environment (`SIGHTLOG_DATA_DIR`, `SIGHTLOG_ENDPOINT`), the environment beats the file, the file
beats the defaults here. `config.toml` in the repository shows every key with its default, and a test
holds the two together.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from sightlog.errors import UsageError
from sightlog.protocol.endpoint import DEFAULT_ENDPOINT, check_endpoint, is_loopback
from sightlog.protocol.limits import IMAGE_BYTES_MAX

from .errors import EXIT_CONFIG, Stop

INSTALLED_CONFIG: Final = Path("/etc/sightlog/config.toml")
PATH_BYTES: Final = 4_096
NAME_BYTES: Final = 255
"""Of a path with its NUL, and of a name in it: limits.h."""
_LOCALTIME: Final = "/etc/localtime"


class Ingest(Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = DEFAULT_ENDPOINT
    batch_records_max: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    batch_bytes_max: Annotated[int, Meta(ge=65_536, le=67_108_864)] = 4_194_304
    linger_ms: Annotated[int, Meta(ge=0, le=60_000)] = 500


class RemoteConfig(Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = ""
    keys_dir: Annotated[str, Meta(min_length=1)] = "/etc/sightlog/keys"


class StoreConfig(Struct, frozen=True, forbid_unknown_fields=True):
    data_dir: Annotated[str, Meta(min_length=1)] = "/var/lib/sightlog"
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    amendment_hours_max: Annotated[int, Meta(ge=1, le=8_760)] = 24
    timezone: str = ""


class Files(Struct, frozen=True, forbid_unknown_fields=True):
    thumbnail_pixels_max: Annotated[int, Meta(ge=16, le=4_096)] = 640
    thumbnail_bytes_max: Annotated[int, Meta(ge=4_096, le=IMAGE_BYTES_MAX)] = 131_072
    debug_line: bool = False


class Storage(Struct, frozen=True, forbid_unknown_fields=True):
    max_storage_gb: Annotated[float, Meta(gt=0, le=1_000_000)] = 4.0
    keep_free_gb: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.2
    min_retention_days: Annotated[int, Meta(ge=0, le=36_500)] = 7
    purge_share_max: Annotated[float, Meta(gt=0, le=1)] = 0.5
    storage_check_interval: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    over_limit_action: Literal["refuse", "shutdown"] = "refuse"


class MetricsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    metrics_interval: Annotated[int, Meta(ge=1, le=86_400)] = 60


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    slow_commit_ms: Annotated[int, Meta(ge=1, le=60_000)] = 10


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    ingest: Ingest = Ingest()
    remote: RemoteConfig = RemoteConfig()
    store: StoreConfig = StoreConfig()
    files: Files = Files()
    storage: Storage = Storage()
    metrics: MetricsConfig = MetricsConfig()
    log: Log = Log()

    @property
    def data_dir(self) -> Path:
        return Path(self.store.data_dir)

    @property
    def keys_dir(self) -> Path:
        return Path(self.remote.keys_dir)

    def zone(self) -> ZoneInfo | None:
        """None: the system's own, which has no name."""
        return ZoneInfo(self.store.timezone) if self.store.timezone else _system_zone()


def _system_zone() -> ZoneInfo | None:
    """By its name, which is written down with each day: the system may have another one tomorrow.

    As tzset(3) and localtime(5) look for it.
    """
    name = os.environ.get("TZ")
    if name is None:
        _, _, name = os.path.realpath(_LOCALTIME).rpartition("/zoneinfo/")
    try:
        return ZoneInfo(name.removeprefix(":") or "UTC") if name or "TZ" in os.environ else None
    except (ValueError, KeyError, OSError):  # a rule, as CET-1CEST, or a file of one's own
        return None


def load(
    file: Path | None,
    environment: Mapping[str, str],
    *,
    data_dir: str | None = None,
    endpoint: str | None = None,
) -> Config:
    """Raises Stop (exit code 78) that names the file, the key and what was expected."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise Stop(EXIT_CONFIG, f"cannot read {file}: {error.strerror}. Give the path of a config.toml") from error
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits is no TOMLDecodeError
            raise Stop(EXIT_CONFIG, f"{file} is not TOML: {error}") from error
    for section, key, given in (
        ("store", "data_dir", data_dir or environment.get("SIGHTLOG_DATA_DIR")),
        ("ingest", "endpoint", endpoint or environment.get("SIGHTLOG_ENDPOINT")),
    ):
        table = values.setdefault(section, {})
        if given and isinstance(table, dict):
            table[key] = given
    try:
        config = msgspec.convert(values, Config)
    except msgspec.ValidationError as error:
        raise Stop(EXIT_CONFIG, f"{file or 'configuration'}: {_explain(str(error), values)}") from error
    for key, path in (("store.data_dir", config.store.data_dir), ("remote.keys_dir", config.remote.keys_dir)):
        if "\0" in path:
            raise Stop(EXIT_CONFIG, f"{file or 'configuration'}: {key}: {path!r} has a NUL; expected a path")
        if len(os.fsencode(path)) >= PATH_BYTES or any(
            len(os.fsencode(part)) > NAME_BYTES for part in Path(path).parts
        ):
            raise Stop(EXIT_CONFIG, f"{file or 'configuration'}: {key}: {path!r:.80} is longer than a path may be")
    try:
        check_endpoint(config.ingest.endpoint)
        config.zone()
    except UsageError as error:
        raise Stop(EXIT_CONFIG, f"{file or 'configuration'}: ingest.endpoint: {error}") from error
    except (ValueError, KeyError, OSError) as error:
        raise Stop(
            EXIT_CONFIG,
            f"{file or 'configuration'}: store.timezone: {config.store.timezone!r} is not a time zone; "
            "expected a name like 'Europe/Zurich', or '' for the system's own",
        ) from error
    if config.ingest.endpoint.startswith("tcp://") and not is_loopback(config.ingest.endpoint):
        raise Stop(
            EXIT_CONFIG,
            f"{file or 'configuration'}: ingest.endpoint: {config.ingest.endpoint!r} is reachable from other machines "
            "without encryption or keys; expected an ipc:// endpoint, or tcp:// on 127.0.0.1. For cameras on other "
            "machines set [remote] listen",
        )
    if config.remote.listen:
        _check_listen(config.remote.listen, file)
    return config


def changed_keys(old: Config, new: Config, *, but: Sequence[str]) -> list[str]:
    """The keys that differ, as "store.data_dir", without those of the sections `but`."""
    return [
        f"{section}.{key}"
        for section in old.__struct_fields__
        if section not in but
        for key in getattr(old, section).__struct_fields__
        if getattr(getattr(old, section), key) != getattr(getattr(new, section), key)
    ]


def _check_listen(endpoint: str, file: Path | None) -> None:
    try:
        if not endpoint.startswith("tcp://"):
            raise UsageError(f"{endpoint!r}; expected tcp://ADDRESS:PORT, such as tcp://0.0.0.0:5570, or ''")
        check_endpoint(endpoint)
    except UsageError as error:
        raise Stop(EXIT_CONFIG, f"{file or 'configuration'}: remote.listen: {error}") from error


_SECTIONS: dict[str, type[Struct]] = {
    "ingest": Ingest,
    "remote": RemoteConfig,
    "store": StoreConfig,
    "files": Files,
    "storage": Storage,
    "metrics": MetricsConfig,
    "log": Log,
}


def _explain(message: str, values: Mapping[str, Any]) -> str:
    """msgspec's message with the key in front, and for an unknown key the known ones."""
    text, _, path = message.partition(" - at `$")
    key = path.rstrip("`").lstrip(".")
    if text.startswith("Object contains unknown field"):
        field = text.split("`")[1]
        struct = _SECTIONS.get(key, Config)
        known = ", ".join(struct.__struct_fields__)
        return f"{f'{key}.' if key else ''}{field}: unknown key; expected one of {known}"
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return f"{key}: {text[0].lower()}{text[1:]}, got {value!r}"
