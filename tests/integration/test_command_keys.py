"""`sightlogd keys`, and the files it makes."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys

import pytest
import zmq
import zmq.auth
from commands import run
from conftest import AS_NOBODY, open_to_all
from remote import Remote

from sightlog import Publisher, UsageError
from sightlog.protocol import keyfile


@pytest.fixture
def remote(idle_daemon):
    return Remote(idle_daemon)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_makes_what_both_sides_need_and_other_tools_can_read(remote, monkeypatch):
    previous = os.umask(0o077)  # root's, on a careful machine: the daemon has to read what is public all the same
    try:
        said = remote.keys("new", "front")
    finally:
        os.umask(previous)
    assert "made the daemon's own key" in said
    assert "Carry this file to the camera" in said
    carried = remote.carried / "front.key_secret"
    allowed = remote.keys_dir / "allowed" / "front.key"
    server, server_secret = remote.keys_dir / "server.key", remote.keys_dir / "server.key_secret"
    assert [mode(file) for file in (carried, server_secret, server, allowed)] == [0o600, 0o600, 0o644, 0o644]
    assert [mode(directory) for directory in (remote.keys_dir, allowed.parent)] == [0o755, 0o755]
    public, secret = zmq.auth.load_certificate(carried)
    assert zmq.curve_public(secret) == public
    assert zmq.auth.load_certificate(allowed) == (public, None)
    assert zmq.auth.load_certificates(allowed.parent) == {public: True}
    assert keyfile.read(carried, secret=True).server.encode() == zmq.auth.load_certificate(server)[0]
    assert zmq.auth.load_certificate(server_secret)[0] == zmq.auth.load_certificate(server)[0]
    assert "made the daemon's own key" not in remote.keys("new", "yard"), "there is one"


def test_a_list_shows_names_and_keys(remote):
    assert "none yet" in remote.keys("list")
    keys = {name: keyfile.read(remote.new(name), secret=True) for name in ("front", "yard")}
    own = keyfile.read(remote.keys_dir / "server.key", secret=False).public
    assert remote.keys("list").splitlines() == [
        f"the daemon's own key: {own}", f"front  {keys['front'].public}", f"yard   {keys['yard'].public}",
    ]  # fmt: skip
    assert keys["front"].server == own
    for name in keys:
        remote.keys("revoke", name)
    assert "nobody comes in" in remote.keys("list")


def test_a_damaged_file_is_named_and_the_others_hold(remote):
    remote.new("front")
    (remote.keys_dir / "allowed" / "yard.key").write_text('curve\n    public-key = "short"\n')
    said = remote.keys("list", code=78)
    assert "front  " in said
    assert "yard.key: its public-key is not one" in said


WRONG_NAMES = ("", ".", "..", "../front", "a/b", "-x", ".hidden", "a b", "ö", "x" * 65, "a\nb", "front.key/..")


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_names_stay_in_their_directory(remote, name):
    for verb in ("new", "revoke"):
        assert "is no name of a key" in remote.keys(verb, "--", name, code=78)
    assert "is no name of a key" in remote.keys("allow", "--", name, "x" * 40, code=78)
    assert not remote.keys_dir.exists()
    assert list(remote.carried.iterdir()) == []


def test_what_is_there_is_never_replaced(remote):
    carried = remote.new("front")
    before = carried.read_text()
    assert "allowed as front already" in remote.keys("new", "front", code=78)
    assert "allowed as front already" in remote.keys("allow", "front", "x" * 40, code=78)
    assert "allowed already, as front" in remote.keys("allow", "porch", carried, code=78)
    (remote.carried / "yard.key_secret").write_text("mine")
    assert "is there already" in remote.keys("new", "yard", code=78)
    assert (remote.carried / "yard.key_secret").read_text() == "mine"
    assert not (remote.keys_dir / "allowed" / "yard.key").exists()
    remote.keys("new", "yard", "--output", remote.carried / "other")
    assert carried.read_text() == before


def test_revoke_says_what_it_did_and_what_it_could_not(remote):
    file = remote.new("front")
    said = remote.keys("revoke", "front")
    assert "front is not allowed any more" in said
    assert "it holds from the next start" in said
    assert "no key is allowed as front. Allowed are: none" in remote.keys("revoke", "front", code=78)
    remote.keys("allow", "front", file)
    (remote.keys_dir / "allowed" / "copy.key").write_text((remote.keys_dir / "allowed" / "front.key").read_text())
    assert "sightlogd keys revoke copy" in remote.keys("revoke", "front", code=78)


def test_a_key_is_given_as_text_or_as_a_file(remote):
    public = zmq.curve_keypair()[0].decode()
    assert "cannot read the key file" in remote.keys("allow", "front", "short", code=78)
    remote.keys("allow", "--", "front", public)
    assert keyfile.read(remote.keys_dir / "allowed" / "front.key", secret=False).public == public
    remote.keys("revoke", "front")
    file = remote.carried / "front.key"
    file.write_text(f'curve\n    public-key = "{public}"\n')
    remote.keys("allow", "front", file)
    assert public in remote.keys("list")


def start_fails(remote, code: int = 78, **env: str) -> str:
    remote.daemon.start(wait=False, env=env)
    assert remote.daemon.process.wait(20) == code
    return remote.daemon.logged()[-1]["event"]


def test_the_daemon_says_what_it_needs_to_listen(remote):
    assert "Run: sightlogd keys new NAME" in start_fails(remote)
    remote.new("front")
    secret = remote.keys_dir / "server.key_secret"
    for odd in (0o604, 0o640, 0o620):
        secret.chmod(odd)
        assert f"Run: chmod 600 {secret}" in start_fails(remote)
    secret.chmod(0o400)
    remote.daemon.start()
    remote.daemon.stop()
    other = zmq.curve_keypair()[1].decode()
    text = secret.read_text()
    secret.write_text(text.replace(keyfile.read(secret, secret=True).secret, other))
    assert "not a pair" in start_fails(remote)
    secret.write_text("")
    assert "no public-key in it" in start_fails(remote)


def test_a_credential_of_systemd_beats_the_file(remote):
    remote.new("front")
    credentials = remote.daemon.home / "credentials"
    credentials.mkdir()
    secret = remote.keys_dir / "server.key_secret"
    secret.rename(credentials / secret.name)
    (credentials / secret.name).chmod(0o440)  # how systemd shows the right it gave with an ACL
    start_fails(remote)
    remote.daemon.start(env={"CREDENTIALS_DIRECTORY": str(credentials)})
    remote.daemon.stop()
    (credentials / secret.name).chmod(0o444)
    assert "other users may read" in start_fails(remote, CREDENTIALS_DIRECTORY=str(credentials))
    remote.keys("new", "yard")  # server.key is enough for that


def test_a_port_that_is_taken_is_trouble_that_passes(remote):
    remote.new("front")
    with socket.create_server(("127.0.0.1", remote.port)):
        assert "cannot listen on" in start_fails(remote, code=74)


BAD_FILES = {
    "gone": (None, "No such file"),
    "empty": ("", "no public-key"),
    "public alone": ('metadata\n  server-key = "{server}"\ncurve\n  public-key = "{public}"\n', "no secret-key"),
    "no server": ('curve\n  public-key = "{public}"\n  secret-key = "{secret}"\n', "no server-key"),
    "cut": ('curve\n  public-key = "{public:.30}"\n', "its public-key is not one"),
    "not a pair": (
        'metadata\n  server-key = "{server}"\ncurve\n  public-key = "{server}"\n  secret-key = "{secret}"\n',
        "not a pair",
    ),
    "long": ("#" * 5_000, "more than 4096 bytes"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_key_file_that_cannot_be_used_is_named(tmp_path, what):
    text, said = BAD_FILES[what]
    public, secret = (key.decode() for key in zmq.curve_keypair())
    server = zmq.curve_keypair()[0].decode()
    file = tmp_path / "front.key_secret"
    if text is not None:
        file.write_text(text.format(public=public, secret=secret, server=server))
        file.chmod(0o600)
    with pytest.raises(UsageError, match=said) as error:
        Publisher("tcp://192.0.2.1:5570", "front", tmp_path / "spool", key_file=file)
    assert str(file) in str(error.value)
    assert not (tmp_path / "spool").exists(), "said before anything is made"


@pytest.mark.parametrize("odd", [0o604, 0o640, 0o660])
def test_a_key_file_that_others_can_read_is_refused(remote, monkeypatch, odd):
    file = remote.new("front")
    file.chmod(odd)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(remote.daemon.home))
    with pytest.raises(UsageError, match=f"Run: chmod 600 {file}"):
        remote.publisher("front", file)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_may_neither_make_keys_nor_drop_connections(remote):
    remote.new("front")
    remote.daemon.start()
    open_to_all(remote.carried)
    anybodys = remote.carried / "anybodys"
    anybodys.mkdir()
    anybodys.chmod(0o777)
    config = remote.daemon.home / "config.toml"
    main = f"{AS_NOBODY}\nsys.argv[0] = 'sightlogd'\nsys.exit(sightlogd.__main__.main())"
    common = ["--config", config, "--data-dir", remote.daemon.data_dir]
    for verb in (["new", "yard", "--output", anybodys / "yard"], ["revoke", "front"], ["allow", "x", "k" * 40]):
        done = subprocess.run(
            [sys.executable, "-c", main, "keys", *verb, *common], capture_output=True, text=True, cwd=remote.carried
        )
        assert done.returncode == 77, done.stderr
        assert "Run this as root" in done.stderr
    assert list(anybodys.iterdir()) == [], "a key that is not allowed is not left"
    assert "front  " in remote.keys("list")


def test_publish_takes_a_key_file_and_says_when_it_is_not_allowed(remote):
    file = remote.new("hook")
    remote.daemon.start()
    arguments = ("publish", "--camera", "gate", "--endpoint", remote.endpoint, "--producer", "hook", "--key-file", file)
    done = run(remote.daemon, *arguments, "--event-id", "e1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "e1 stored\n", "")
    remote.keys("revoke", "hook")
    done = run(remote.daemon, *arguments, "--event-id", "e2")
    assert (done.returncode, done.stdout) == (77, "e2 spooled\n")
    assert "does not allow the key hook" in done.stderr
    assert "do not publish it again" in done.stderr
    remote.keys("allow", "hook", file)
    done = run(remote.daemon, *arguments, "--event-id", "e3")
    assert done.stdout == "e3 stored\n"
    with remote.daemon.reader() as reader:
        assert reader.get_event("e2")
