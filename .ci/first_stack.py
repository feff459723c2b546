#!/usr/bin/env python3
"""Checks that the programs of the README and of the guides compile as they are printed.

    python3 .ci/first_stack.py
    python3 .ci/first_stack.py --self-test

A program is a Rust block with a `fn main`, in a section that begins with a TOML block of
`[dependencies]`. Each is written into a fresh crate with these dependencies, outside the workspace,
where `buttress` and its stores are of this tree, and is checked there. The versions are the ones in
`Cargo.lock`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

from rust_source import ROOT, plant, tracked

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$|^(#+) ([^\n]*)$", re.MULTILINE | re.DOTALL)
HIDDEN = re.compile(r"^\s*#(?: |$)", re.MULTILINE)
DEV = "[dev-dependencies]"
MAIN = re.compile(r"\bfn main\(")


def programs(text):
    """Yields the heading, the dependencies and the code of each program of a page."""
    heading = level = dependencies = of_page = None
    for part in FENCE.finditer(text):
        info, block, mark, title = part.groups()
        if title is not None:
            level, heading, dependencies = len(mark), title, of_page
        elif info == "toml" and block.startswith("[dependencies]"):
            dependencies = block
            if level == 1 and re.search(r"^buttress\b", block, re.MULTILINE):
                of_page = block
        elif info == "toml" and block.startswith(DEV) and dependencies:
            dependencies = f"{dependencies}\n{block}"
        elif info.split(",")[0] == "rust" and MAIN.search(block) and dependencies:
            yield heading, dependencies, block


def crate(root, dependencies, code, folder):
    """Writes a crate that depends on the crates of a tree."""
    stores = "".join(
        f'{store} = {{ path = "{root}/crates/{store}" }}\n'
        for store in re.findall(r"^(buttress-\w+)", dependencies, re.MULTILINE)
    )
    manifest = f"""[package]
name = "fresh"
version = "0.0.0"
edition = "2024"

{dependencies}
[patch.crates-io]
buttress = {{ path = "{root}" }}
{stores}
[workspace]
"""
    plant(folder, {"Cargo.toml": manifest, "src/main.rs": code})
    shutil.copy(os.path.join(ROOT, "Cargo.lock"), folder)


def compiles(root, dependencies, code):
    """Returns what is wrong with a program, or nothing."""
    if HIDDEN.search(code):
        return "a line is hidden with `#`, but is not in what a reader copies from the page"
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target", "first_stack"))
    environment = {**os.environ, "CARGO_TARGET_DIR": os.path.abspath(target)}
    with tempfile.TemporaryDirectory() as folder:
        crate(root, dependencies, code, folder)
        command = ["cargo", "check", "--quiet"] + (["--tests"] if DEV in dependencies else [])
        checked = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )
    return checked.stdout if checked.returncode else None


def check(root):
    """Returns how many programs there are, and the faults as lines."""
    found, faults = 0, []
    for path in tracked(root, "README.md", "docs/*.md"):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        of_page = list(programs(text))
        if path == "README.md" and not of_page:
            faults.append(f"{path}: no program with its dependencies")
        for heading, dependencies, code in of_page:
            found += 1
            fault = compiles(root, dependencies, code)
            if fault:
                faults.append(f"{path}: {heading}: {fault}")
    return found, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=ROOT, help="the tree to check")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    found, faults = check(os.path.abspath(arguments.root))
    print("\n".join(faults or [f"{found} programs compile in a fresh crate"]))
    return 1 if faults else 0


# Self-test.


def page(dependencies, code, between="", info="rust"):
    return f"# a\n\n```toml\n[dependencies]\n{dependencies}\n```\n{between}\n```{info}\n{code}```\n"


BUTTRESS = 'buttress = "0.1"'
HTTP = BUTTRESS + '\nhttp = "1"'
USES_HTTP = "fn main() {\n    let _ = (http::Method::GET, buttress::Stack::new());\n}\n"
# What is planted, the README, and how many programs and faults it has.
PLANTED = [
    ("all that it needs", page(HTTP, USES_HTTP), 1, 0),
    ("a crate that is missing", page(BUTTRESS, USES_HTTP), 1, 1),
    ("a crate that is missing, under `no_run`", page(BUTTRESS, USES_HTTP, info="rust,no_run"), 1, 1),
    ("an item that is not there", page(HTTP, "fn main() {\n    buttress::nothing();\n}\n"), 1, 1),
    ("a hidden line", page(HTTP, "# use http;\n" + USES_HTTP), 1, 1),
    ("an attribute, which is not hidden", page(HTTP, "#[rustfmt::skip]\n" + USES_HTTP), 1, 0),
    ("code without `main`", page(HTTP, "use nothing;\n"), 0, 1),
    ("dependencies of another section", "#" + page(HTTP, USES_HTTP, between="\n## b\n"), 0, 1),
    ("dependencies of the page", page(HTTP, USES_HTTP, between="\n## b\n"), 1, 0),
    ("a crate that is missing on the page", page(BUTTRESS, USES_HTTP, between="\n## b\n"), 1, 1),
    ("a page without buttress", page('http = "1"', USES_HTTP, between="\n## b\n"), 0, 1),
    ("a crate for tests", page(BUTTRESS, USES_HTTP, between=f'\n```toml\n{DEV}\nhttp = "1"\n```\n'), 1, 0),
    ("no block at all", "# a\n", 0, 1),
]


def self_test():
    for what, readme, programs_, faults in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            manifest = '[package]\nname = "buttress"\nversion = "0.1.0"\nedition = "2024"\n'
            library = "pub struct Stack;\nimpl Stack {\n    pub fn new() -> Self {\n        Self\n    }\n}\n"
            files = {"README.md": readme, "Cargo.toml": manifest, "src/lib.rs": library}
            plant(root, files, track=True)
            found = check(root)
        assert (found[0], len(found[1])) == (programs_, faults), (what, found)
    print(f"first_stack: {len(PLANTED)} planted pages reported as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
