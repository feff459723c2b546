#!/usr/bin/env python3
"""Checks that each crate compiles with the lowest versions of its dependencies that it allows.

    python3 .ci/floors.py

For each published crate, this copies the sources and the manifest without dev-dependencies. It
resolves each direct dependency to the lowest version that the manifest allows, and checks the copy
with all features, because resolving alone proves nothing. The option that resolves is a nightly
option. The stable compiler accepts it with `RUSTC_BOOTSTRAP`, which the check does not use.
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
EXPORTERS = ["crates/buttress-prometheus", "crates/buttress-otel", "crates/buttress-metrics"]
ADMIN = "crates/buttress-admin"
# Crates that another one is built from, besides buttress.
NEEDED = {ADMIN: ["crates/buttress-prometheus"]}
# Tables that need files or settings that are not copied: targets, members, lints of the workspace,
# and dev-dependencies.
LEFT_OUT = re.compile(
    r"dev-dependencies|\[?(bench|example|test)\b|profile|workspace|lints|package\.metadata"
)
TABLE = re.compile(r"^\[(.+)\]$", re.MULTILINE)


def reduced(manifest):
    """Returns the manifest with only the tables that the library needs."""
    starts = [found.start() for found in TABLE.finditer(manifest)]
    tables = (manifest[i:j] for i, j in zip(starts, [*starts[1:], len(manifest)]))
    kept = [table for table in tables if not LEFT_OUT.match(TABLE.match(table)[1])]
    return "".join(kept)


def copy(folder, to):
    """Copies the files that the library of a crate is built from."""
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
        # A crate finds buttress two folders above it, as in this tree. Buttress is not a member of
        # the workspace, because only the crate's own dependencies must be at their lowest.
        for part in {MAIN, folder, *NEEDED.get(folder, [])}:
            copy(part, os.path.normpath(os.path.join(root, "main", part)))
        crate = os.path.normpath(os.path.join(root, "main", folder))
        with open(os.path.join(crate, "Cargo.toml"), "a", encoding="utf-8") as file:
            file.write('\n[workspace]\nresolver = "3"\n')
        cargo(crate, "update", "--quiet", "-Z", "direct-minimal-versions", RUSTC_BOOTSTRAP="1")
        cargo(crate, "check", "--quiet", "--locked", "--all-features")


def main():
    for folder in [MAIN, *STORES, *EXPORTERS, ADMIN]:
        check(folder)
    print("each crate compiles with the lowest versions that it allows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
