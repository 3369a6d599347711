"""The `sightlog` command."""


def main() -> int:
    raise SystemExit("not yet")
