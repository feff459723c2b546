#!/usr/bin/env python3
"""Checks that each crate compiles with the lowest versions of its dependencies that it allows.

    python3 .ci/floors.py

For each published crate it copies the sources and the manifest without dev-dependencies, resolves
each direct dependency to the lowest version that the manifest allows, and checks the copy with all
features. Resolving alone proves nothing. The option that resolves is a nightly one, which the
stable compiler takes with `RUSTC_BOOTSTRAP`; the check is without it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAIN = "."
STORES = ["crates/buttress-redb", "crates/buttress-redis", "crates/buttress-postgres"]
# Tables that need what is not copied: targets, members, lints of the workspace, and what only
# tests depend on.
LEFT_OUT = re.compile(
    r"dev-dependencies|\[?(bench|example|test)\b|profile|workspace|lints|package\.metadata"
)
TABLE = re.compile(r"^\[(.+)\]$", re.MULTILINE)


def reduced(manifest):
    """Returns a manifest with only the tables that the library needs."""
    starts = [found.start() for found in TABLE.finditer(manifest)]
    tables = (manifest[i:j] for i, j in zip(starts, [*starts[1:], len(manifest)]))
    kept = [table for table in tables if not LEFT_OUT.match(TABLE.match(table)[1])]
    return "".join(kept)


def copy(folder, to):
    """Copies what the library of a crate is built from."""
    with open(os.path.join(ROOT, folder, "Cargo.toml"), encoding="utf-8") as file:
        manifest = reduced(file.read())
    os.makedirs(to, exist_ok=True)
    with open(os.path.join(to, "Cargo.toml"), "w", encoding="utf-8") as file:
        file.write(manifest)
    shutil.copytree(os.path.join(ROOT, folder, "src"), os.path.join(to, "src"))
    shutil.copy(os.path.join(ROOT, folder, "README.md"), to)
    # The guides are included in the library.
    if os.path.isdir(guides := os.path.join(ROOT, folder, "docs")):
        shutil.copytree(guides, os.path.join(to, "docs"))


def cargo(folder, *arguments, **variables):
    target = {"CARGO_TARGET_DIR": os.path.join(ROOT, "target", "floors")}
    command = ["cargo", *arguments]
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, **target, **variables})


def check(folder):
    print(f"-- {folder}", flush=True)
    with tempfile.TemporaryDirectory() as root:
        # A store finds buttress two folders above it, as here; it is no member, so that only what
        # the store itself depends on is at its lowest.
        for part in {MAIN, folder}:
            copy(part, os.path.normpath(os.path.join(root, "main", part)))
        crate = os.path.normpath(os.path.join(root, "main", folder))
        with open(os.path.join(crate, "Cargo.toml"), "a", encoding="utf-8") as file:
            file.write('\n[workspace]\nresolver = "3"\n')
        cargo(crate, "update", "--quiet", "-Z", "direct-minimal-versions", RUSTC_BOOTSTRAP="1")
        cargo(crate, "check", "--quiet", "--locked", "--all-features")


def main():
    for folder in [MAIN, *STORES]:
        check(folder)
    print("each crate compiles with the lowest versions that it allows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
