"""What benchmarks of this folder are told, and how they say what they found."""

import os


def number(name, default):
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise SystemExit(f"FAIL {name}={text!r}: a whole number from 1 to 100000 is wanted")
    return int(text)


def row(name, value, unit, target, holds, peer=None, ratio=None):
    digits = lambda number: None if number is None else float(f"{number:.4g}")
    return {
        "name": name, "value": digits(value), "unit": unit, "peer": peer, "ratio": digits(ratio), "target": target,
        "holds": holds,
    }


def processor():
    with open("/proc/cpuinfo") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
