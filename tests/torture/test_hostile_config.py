"""Configuration files as editors, disks and strangers leave them: an explanation and exit code 78, or it works."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import verbs
from lab import often
from mutations import NASTY_TEXTS

FILES = often(100, 3_000)
GROUP = 400
CONFIG = (Path(__file__).parents[2] / "config.toml").read_text(encoding="utf-8")
VALUES = [
    "0", "-1", "1", "9" * 25, "9" * 5_000, "1e400", "nan", "inf", "-inf", "true", "[]", "[[]]", "{}",
    "{a = 1}", "1979-05-27", "07:32:00", "2026-11-20T10:00:00Z", "''", '""', "0x7fffffffffffffff", "0b1",
    "1_000", "0.1e-300", "[" * 3_000, "{a=" * 900, '"""', "'''", "ipc:///x", '"unknown field"',
    '"Object contains unknown field `x`"', '" - at `$.x.y`"', '"tcp://0.0.0.0:5570"',
    '"tcp://127.0.0.1:99999999999999999999"', '"tcp://\\u0000:1"', '"ipc:///a\\u0000b"', '"ipc://@abstract"',
    '"tcp://[::1%lo]:5570"', '"Europe"', '"../../etc/passwd"', '"UTC"', '"Europe/Zurich"', '"zone.tab"',
]  # fmt: skip


def quoted(text: str) -> str:
    escaped = "".join(f"\\U{ord(char):08x}" if not char.isprintable() or char in '"\\' else char for char in text)
    return f'"{escaped}"'


def mutated(choose: random.Random) -> bytes:
    lines = [line for line in CONFIG.splitlines() if line and not line.startswith("#")]
    what = choose.random()
    if what < 0.6:  # other values, or a key that nobody knows
        for _ in range(choose.choice([1, 1, 1, 4])):
            at = choose.choice([number for number, line in enumerate(lines) if "=" in line or choose.random() < 0.1])
            key = lines[at].partition("=")[0].strip() if "=" in lines[at] else "x"
            if choose.random() < 0.1:
                key = quoted(choose.choice(NASTY_TEXTS))
            value = choose.choice(VALUES) if choose.random() < 0.5 else quoted(choose.choice(NASTY_TEXTS))
            if choose.random() < 0.6 and "=" in lines[at]:  # of the right kind
                value = (
                    quoted(choose.choice(NASTY_TEXTS)) if '"' in lines[at] else choose.choice(["0", "1", "50", "0.5"])
                )
            lines[at] = f"{key} = {value}"
    elif what < 0.75:  # sections that are something else, or there twice
        name = choose.choice(
            ["ingest", "store", "storage", "log", "x", '""', "log.level", quoted(choose.choice(NASTY_TEXTS))]
        )
        lines.insert(
            choose.randrange(len(lines)), choose.choice([f"[{name}]", f"[[{name}]]", f"{name} = 5", f"{name}.a.b = 1"])
        )
    elif what < 0.85:
        choose.shuffle(lines)
    data = bytearray("\n".join(lines).encode())
    if what > 0.85:
        for _ in range(choose.choice([1, 1, 8, 64])):
            at = choose.randrange(len(data) + 1)
            data[at : at + choose.choice([1, 1, 100])] = choose.randbytes(choose.choice([0, 1, 1, 4]))
    return bytes(data)


@pytest.mark.timeout(60 + FILES // 5)
def test_a_wrong_configuration_is_explained_with_exit_code_78(tmp_path, attack):
    attack.on("P8", "mutated config.toml to check-config, and to verbs that use it", "configurations")
    choose = attack.random()
    refused = 0
    for group in range(0, FILES, GROUP):
        files = []
        for number in range(min(GROUP, FILES - group)):
            files.append(tmp_path / f"{number}.toml")
            files[-1].write_bytes(mutated(choose))
        done = verbs.run([("sightlogd", "check-config", "--config", file) for file in files])
        # What check-config takes must not bring down the others either; there is no store in these places.
        taken = [file for file, one in zip(files, done, strict=True) if one.code == 0]
        chosen = choose.sample(taken, min(len(taken), 20))
        later = verbs.run([("sightlogd", "verify", "--config", file) for file in chosen])
        for one in done + later:
            verbs.assert_explained(one)
        for one in done:
            assert one.code in (0, 78), one
            assert one.code == 0 or ".toml: " in one.stderr or " is not TOML: " in one.stderr, one
        assert [one for one in later if one.code != 78] == []
        refused += sum(one.code != 0 for one in done)
        attack.runs += len(files)
    attack.note = f"{refused:,} refused"
    assert FILES // 3 < refused < FILES - FILES // 50
