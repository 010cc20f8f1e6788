"""Plants each bug of bugs.py in a copy of the checkout and runs the tests of muster-numerics, which must fail. Ends with
`N passed, N failed, N skipped`. Settings: BUGS (a part of a name), CARGO_TARGET_DIR (its `planted` is built in)."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from bugs import BUGS

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SOURCES = "trainer-image/numerics/src"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve() / "planted"
TESTS = ["cargo", "test", "--locked", "--package", "muster-numerics", "--lib", "--tests"]


def tests(checkout):
    """Whether all pass, and which one fails first. A bug may also make them hang."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET), "CARGO_INCREMENTAL": "0", "PROPTEST_FAILURE_PERSISTENCE": "off"}
    try:
        done = subprocess.run(
            TESTS, cwd=checkout, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
        )
    except subprocess.TimeoutExpired:
        return False, "none ends"
    names = re.findall(r"^test (\S+) \.\.\. FAILED$", done.stdout, re.MULTILINE)
    if done.returncode != 0 and not names and "could not compile" in done.stderr:
        return None, done.stderr[-2000:]
    return done.returncode == 0, ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def checkout(directory):
    """What git knows of, as it is in the tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            # With the time of now: what the last run built, maybe with a bug in it, is older.
            shutil.copy(REPOSITORY / name, directory / name)


def planted(directory, file, old, new):
    """Whether the tests pass with this replacement."""
    path = directory / SOURCES / file
    text = path.read_text()
    if text.count(old) != 1:
        return None, f"{file} has {text.count(old)} of {old!r}; bugs.py is out of date"
    path.write_text(text.replace(old, new))
    try:
        return tests(directory)
    finally:
        path.write_text(text)


def main():
    wanted = [bug for bug in BUGS if os.environ.get("BUGS", "") in bug[0]]
    passed, failed = 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        checkout(directory)
        good, why = tests(directory)
        if not good:
            print(f"FAIL no bug: the tests fail without one: {why}")
            print("0 passed, 1 failed, 0 skipped")
            return 1
        for name, *bug in wanted:
            good, why = planted(directory, *bug)
            if good is False:
                passed += 1
                print(f"ok   {name}: {why}", flush=True)
            else:
                failed += 1
                print(f"FAIL {name}: {'no test noticed' if good else why}", flush=True)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
