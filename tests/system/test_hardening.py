"""Each line that confines the service does confine it, and the service works under all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from conftest import wait_for
from probe import ATTEMPTS

UNIT = Path(__file__).parents[2] / "systemd/sightlogd.service"
pytest_plugins = ["machine"]

PYTHON = "/opt/sightlog/current/bin/python"
CONTROL = "[Unit]\nDescription=the same attempts, not confined\n[Service]\nType=oneshot\nExecStart={}\n"

SHOWN = (
    # Cannot be tried in a container, which may not do it either: what systemd says is in force has to be the unit's.
    *("AmbientCapabilities", "KeyringMode", "RemoveIPC", "DevicePolicy", "ProtectClock"),
    *("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "IPAddressDeny", "SystemCallArchitectures"),
    # The container's cgroups have no controller for these, and it may not lower what keeps it from being killed.
    *("MemoryHigh", "MemoryMax", "TasksMax", "OOMScoreAdjust", "LimitNOFILE"),
    "SystemCallErrorNumber",
)
KEEPS = ("StateDirectory", "StateDirectoryMode", "ReadWritePaths")
"""Where it keeps its data."""
OUTSIDE = ("PrivateNetwork", "PrivateMounts")
"""Compared with what everybody else has."""
WORKING = """
import io, sys
from PIL import Image
from sightlog import Event, Observation, Publisher
def picture(kind):
    out = io.BytesIO()
    Image.new("RGB", (1000, 800), "red").save(out, kind)
    return out.getvalue()
with Publisher(producer="pictures", spool_dir="/tmp/spool-pictures") as publisher:
    for kind in ("JPEG", "PNG", "WEBP", "BMP"):
        event = Event("door", event_id=kind, llm_description=f"a {kind} shirt", thumbnail=picture(kind))
        assert publisher.insert_event(event)
    publisher.publish(Observation("a blue parcel", "desk")).wait(20)
"""


def settings() -> dict[str, str]:
    """Of the unit's [Service], what confines it: from OOMScoreAdjust on, but for where it keeps its data."""
    section = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0]
    found = re.findall(r"^(\w+)=(.*)$", section[section.index("OOMScoreAdjust=") :], re.MULTILINE)
    return {name: value for name, value in found if name not in KEEPS}


def test_no_line_is_left_out_of_these_tests():
    proven = {name.partition(":")[0] for name in ATTEMPTS}
    assert set(settings()) == proven | set(SHOWN) | set(OUTSIDE)


def probed(machine) -> dict:
    return json.loads((machine.root / "var/lib/sightlog/probed").read_text())


def test_what_the_unit_forbids_cannot_be_done_and_can_be_without_it(service):
    service.systemctl("stop", "sightlogd")
    service.sh("touch /tmp/of-others")
    probe = f"{PYTHON} /srv/sightlog/tests/system/probe.py"
    service.drop_in(f"[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart={probe}\n")
    service.run("systemctl", "start", "sightlogd")
    confined = probed(service)
    (service.root / "etc/systemd/system/control.service").write_text(CONTROL.format(probe))
    service.systemctl("daemon-reload")
    service.systemctl("start", "control")
    free = probed(service)
    assert [name for name in ATTEMPTS if confined[name]] == []
    assert [name for name in ATTEMPTS if not free[name]] == [], "an attempt that cannot succeed proves nothing"
    for namespace in ("net", "mnt"):
        everybodys = int(service.run("stat", "-Lc", "%i", f"/proc/1/ns/{namespace}").stdout)
        assert confined[namespace] != everybodys
        assert namespace == "mnt" or free[namespace] == everybodys


def test_what_cannot_be_tried_is_in_force(service):
    written = settings()
    shown = {name: service.show("sightlogd", name) for name in SHOWN}
    assert {name: shown[name] for name in ("KeyringMode", "DevicePolicy", "SystemCallArchitectures")} == {
        name: written[name] for name in ("KeyringMode", "DevicePolicy", "SystemCallArchitectures")
    }
    assert (shown["AmbientCapabilities"], shown["SystemCallErrorNumber"]) == ("", str(1))
    assert {shown[name] for name in ("RemoveIPC", *(name for name in SHOWN if name.startswith("Protect")))} == {"yes"}
    assert "0.0.0.0/0" in shown["IPAddressDeny"]
    assert "::/0" in shown["IPAddressDeny"]
    for name in ("MemoryHigh", "MemoryMax"):
        assert int(shown[name]) == int(written[name].removesuffix("M")) << 20
    for name in ("TasksMax", "OOMScoreAdjust", "LimitNOFILE"):
        assert shown[name] == written[name]


def test_pictures_are_made_and_words_found_under_the_filter(service):
    service.run(PYTHON, "-c", WORKING, user="cam")
    for kind in ("JPEG", "PNG", "WEBP", "BMP"):
        picture = f"/var/lib/sightlog/events/*/{kind}.jpg"
        wait_for(lambda picture=picture: service.sh(f"ls {picture} || true", user="dash"), f"the picture of {kind}")
    assert "a blue [parcel]" in service.run("sightlog", "search", "parcel", user="dash").stdout
    assert service.run("sightlog", "search", "shirt", user="dash").stdout.count("shirt") >= 4
    service.run("sightlogd", "verify", user="sightlog")
    wait_for(lambda: not service.sh("ls /var/lib/sightlog/events/incoming 2>/dev/null || true"), "nothing waits")
    assert "cannot" not in service.journal()


def test_it_is_confined_better_than_anything_else_there(service):
    """journald has 4.3 to 4.9."""
    report = service.run("systemd-analyze", "security", "--no-pager", "sightlogd", check=False).stdout
    assert float(re.search(r"Overall exposure level for sightlogd.service: ([\d.]+)", report)[1]) <= 0.5
