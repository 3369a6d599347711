"""config.toml, the environment and the flags."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from sightlogd import config
from sightlogd.config import Config, load
from sightlogd.errors import EXIT_CONFIG, Stop

CONFIG_TOML = Path(__file__).parents[2] / "config.toml"


def load_text(tmp_path: Path, text: str | bytes, environment: dict[str, str] | None = None, **flags: str) -> Config:
    file = tmp_path / "config.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(file, environment or {}, **flags)


def test_config_toml_lists_every_key_with_its_default():
    assert tomllib.loads(CONFIG_TOML.read_text()) == msgspec.to_builtins(Config())


def test_config_toml_says_something_about_every_key():
    lines = CONFIG_TOML.read_text().splitlines()
    for number, line in enumerate(lines):
        if "=" in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line


def test_config_toml_is_accepted_and_changes_nothing():
    assert load(CONFIG_TOML, {}) == load(None, {}) == Config()


@pytest.mark.parametrize("text", ["", "[store]\n", "# nothing\n"])
def test_what_is_left_out_has_its_default(tmp_path, text):
    assert load_text(tmp_path, text) == Config()


# (text, the key, what is said about it)
WRONG = [
    ("[ingest]\nlinger = 5", "ingest.linger", "unknown key; expected one of endpoint"),
    ("[store]\nsynchronus = 'FULL'", "store.synchronus", "unknown key; expected one of data_dir, synchronous"),
    ("[log]\nlevel = 'info'\nfile = 'x'", "log.file", "unknown key; expected one of level"),
    (
        "[ingset]\nlinger_ms = 5",
        "ingset",
        "unknown key; expected one of ingest, remote, store, files, storage, metrics, log",
    ),
    ("linger_ms = 5", "linger_ms", "unknown key"),
    ("[ingest]\nlinger_ms = '5'", "ingest.linger_ms", "expected `int`, got `str`, got '5'"),
    ("[ingest]\nlinger_ms = 5.5", "ingest.linger_ms", "expected `int`"),
    ("[ingest]\nlinger_ms = true", "ingest.linger_ms", "expected `int`"),
    ("[ingest]\nlinger_ms = -1", "ingest.linger_ms", "expected `int` >= 0, got -1"),
    ("[ingest]\nlinger_ms = 60001", "ingest.linger_ms", "expected `int` <= 60000, got 60001"),
    ("[ingest]\nlinger_ms = nan", "ingest.linger_ms", "expected `int`"),
    ("[ingest]\nbatch_records_max = 0", "ingest.batch_records_max", "expected `int` >= 1, got 0"),
    ("[ingest]\nbatch_bytes_max = 65535", "ingest.batch_bytes_max", "expected `int` >= 65536, got 65535"),
    ("[ingest]\nbatch_bytes_max = 9223372036854775808", "ingest.batch_bytes_max", "expected `int` <= 67108864"),
    ("[ingest]\nendpoint = 5", "ingest.endpoint", "expected `str`"),
    ("[ingest]\nendpoint = ''", "ingest.endpoint", "ipc://"),
    ("[ingest]\nendpoint = 'here'", "ingest.endpoint", "ipc://"),
    ("[ingest]\nendpoint = 'udp://127.0.0.1:5'", "ingest.endpoint", "ipc://"),
    ("[ingest]\nendpoint = 'tcp://*:5555'", "ingest.endpoint", "expected an ipc:// endpoint"),
    ("[ingest]\nendpoint = 'tcp://0.0.0.0:5555'", "ingest.endpoint", "expected an ipc:// endpoint"),
    ("[ingest]\nendpoint = 'tcp://192.168.1.5:5555'", "ingest.endpoint", "expected an ipc:// endpoint"),
    ("[ingest]\nendpoint = 'tcp://127.evil.example:5555'", "ingest.endpoint", "expected an ipc:// endpoint"),
    ("[store]\nsynchronous = 'OFF'", "store.synchronous", "invalid enum value 'OFF', got 'OFF'"),
    ("[store]\nsynchronous = 'full'", "store.synchronous", "invalid enum value"),
    ("[store]\ndata_dir = ''", "store.data_dir", "expected `str` of length >= 1"),
    ("[store]\namendment_hours_max = 0", "store.amendment_hours_max", "expected `int` >= 1"),
    ("[store]\ntimezone = 'Mars/Olympus'", "store.timezone", "'Mars/Olympus' is not a time zone; expected a name like"),
    ("[store]\ntimezone = 'Europe'", "store.timezone", "is not a time zone"),
    ("[store]\ntimezone = '../../etc/passwd'", "store.timezone", "is not a time zone"),
    ("[store]\ntimezone = '/etc/localtime'", "store.timezone", "is not a time zone"),
    ("[files]\nthumbnail_pixels_max = 15", "files.thumbnail_pixels_max", "expected `int` >= 16"),
    ("[files]\nthumbnail_bytes_max = 4194305", "files.thumbnail_bytes_max", "expected `int` <= 4194304"),
    ("[storage]\nmax_storage_gb = 0", "storage.max_storage_gb", "expected `float` > 0"),
    ("[storage]\nmax_storage_gb = nan", "storage.max_storage_gb", "expected `float`"),
    ("[storage]\nkeep_free_gb = inf", "storage.keep_free_gb", "expected `float` <= 1000000"),
    ("[storage]\npurge_share_max = 1.1", "storage.purge_share_max", "expected `float` <= 1"),
    ("[storage]\nover_limit_action = 'delete'", "storage.over_limit_action", "invalid enum value 'delete'"),
    ("[metrics]\nmetrics_interval = 0", "metrics.metrics_interval", "expected `int` >= 1"),
    ("[log]\nlevel = 'loud'", "log.level", "invalid enum value 'loud'"),
    ("[log]\nslow_commit_ms = 0", "log.slow_commit_ms", "expected `int` >= 1"),
    ("[store]\ndata_dir = 'unknown field'\nsynchronous = 'unknown field'", "store.synchronous", "invalid enum value"),
    ('[store]\ndata_dir = "a\\u0000b"', "store.data_dir", "has a NUL"),
    ('[remote]\nkeys_dir = "\\u0000"', "remote.keys_dir", "has a NUL"),
    (f'[store]\ndata_dir = "{"ä" * 128}"', "store.data_dir", "is longer than a path may be"),
    (f'[remote]\nkeys_dir = "{"a/" * 2048}"', "remote.keys_dir", "is longer than a path may be"),
    ('[ingest]\nendpoint = "ipc:///a\\u0000b"', "ingest.endpoint", "expected ipc:///path"),
    (f"[ingest]\nendpoint = 'tcp://127.0.0.1:{'9' * 5_000}'", "ingest.endpoint", "with a port from 1 to 65535"),
    ("store = 5", "store", "expected `object`, got `int`"),
    ("[[store]]\ndata_dir = 'x'", "store", "expected `object`, got `array`"),
    ("ingest = 'tcp'", "ingest", "expected `object`, got `str`"),
]


@pytest.mark.parametrize(("text", "key", "said"), WRONG, ids=[text for text, _, _ in WRONG])
def test_a_wrong_key_or_value_is_named_with_its_file_and_what_was_expected(tmp_path, text, key, said):
    with pytest.raises(Stop) as stop:
        load_text(tmp_path, text)
    assert stop.value.exit_code == EXIT_CONFIG
    assert str(stop.value).startswith(f"{tmp_path / 'config.toml'}: {key}: ")
    assert said in str(stop.value)


@pytest.mark.parametrize(
    "text",
    [
        "[store",
        "a = ",
        "= 5",
        b"\xff\xfe",
        b"data_dir = '\xff'",
        "[store]\n[store]\n",
        "a = " + "[" * 100_000,
        "a=" + "9" * 5_000,
    ],
    ids=lambda text: str(text[:12]),
)
def test_a_file_that_is_not_toml_is_named(tmp_path, text):
    with pytest.raises(Stop, match=r"config\.toml is not TOML: ") as stop:
        load_text(tmp_path, text)
    assert stop.value.exit_code == EXIT_CONFIG


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, why in ((tmp_path / "missing.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(Stop, match=f"cannot read {path}: {why}. Give the path") as stop:
            load(path, {})
        assert stop.value.exit_code == EXIT_CONFIG


FILE = "[store]\ndata_dir = '/file'\n[ingest]\nendpoint = 'ipc:///file'\n"
ENVIRONMENT = {"SIGHTLOG_DATA_DIR": "/environment", "SIGHTLOG_ENDPOINT": "ipc:///environment"}
FLAGS = {"data_dir": "/flag", "endpoint": "ipc:///flag"}


@pytest.mark.parametrize(
    ("file", "environment", "flags", "source"),
    [
        (FILE, {}, {}, "file"),
        (FILE, ENVIRONMENT, {}, "environment"),
        (FILE, ENVIRONMENT, FLAGS, "flag"),
        (FILE, {}, FLAGS, "flag"),
        ("", ENVIRONMENT, {}, "environment"),
        ("", {}, FLAGS, "flag"),
        (FILE, {"SIGHTLOG_DATA_DIR": "", "SIGHTLOG_ENDPOINT": ""}, {"data_dir": "", "endpoint": ""}, "file"),
    ],
)
def test_flags_beat_the_environment_and_the_environment_beats_the_file(tmp_path, file, environment, flags, source):
    config = load_text(tmp_path, file, environment, **flags)
    assert (config.data_dir, config.ingest.endpoint) == (Path(f"/{source}"), f"ipc:///{source}")


@pytest.mark.parametrize("flags", [{}, {"data_dir": "/flag"}])
def test_the_environment_does_not_hide_a_broken_file(tmp_path, flags):
    with pytest.raises(Stop, match=r"config\.toml: store: expected `object`"):
        load_text(tmp_path, "store = 5", ENVIRONMENT, **flags)


def test_a_wrong_value_from_outside_the_file_says_what_was_expected():
    with pytest.raises(Stop, match=r"configuration: ingest\.endpoint: .*ipc://") as stop:
        load(None, {"SIGHTLOG_ENDPOINT": "here"})
    assert stop.value.exit_code == EXIT_CONFIG


@pytest.mark.parametrize(
    "endpoint", ["ipc:///run/s", "tcp://127.0.0.1:5555", "tcp://localhost:5555", "tcp://[::1]:5555"]
)
def test_an_endpoint_of_this_machine_is_accepted(endpoint):
    assert load(None, {}, endpoint=endpoint).ingest.endpoint == endpoint


@pytest.mark.parametrize("name", ["Europe/Zurich", "UTC"])
def test_the_time_zone_is_the_one_that_is_named(tmp_path, name):
    zone = load_text(tmp_path, f"[store]\ntimezone = '{name}'").zone()
    assert zone is not None
    assert zone.key == name


@pytest.mark.parametrize(
    ("variable", "link", "key"),
    [
        (None, "/usr/share/zoneinfo/America/Lima", "America/Lima"), ("Asia/Tokyo", None, "Asia/Tokyo"),
        (":Asia/Tokyo", "/usr/share/zoneinfo/America/Lima", "Asia/Tokyo"), ("", None, "UTC"),
        ("CET-1CEST", "/usr/share/zoneinfo/America/Lima", None), (None, "/etc/a-file-of-ones-own", None),
        (None, None, None),
    ],
)  # fmt: skip
def test_without_a_name_it_is_the_systems_own_as_far_as_that_has_one(tmp_path, monkeypatch, variable, link, key):
    there = tmp_path / "localtime"
    if link:
        there.symlink_to(link)
    monkeypatch.setattr(config, "_LOCALTIME", str(there))
    monkeypatch.delenv("TZ", raising=False)
    if variable is not None:
        monkeypatch.setenv("TZ", variable)
    zone = load_text(tmp_path, "[store]\ntimezone = ''").zone()
    assert (zone and zone.key) == key
