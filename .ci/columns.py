#!/usr/bin/env python3
"""Checks that no line of code is longer than 100 columns.

    python3 .ci/columns.py                # code
    python3 .ci/columns.py --comments     # comments and Markdown too
    python3 .ci/columns.py --self-test

URLs are not counted, because they cannot be broken. Rows of tables in comments and Markdown are
not checked.
"""

import argparse
import os
import re
import sys
import tempfile

from rust_source import COMMENTS, ROOT, blanked, plant, spaces, tracked

MOST = 100
URL = re.compile(r"https?://[^\s\"'<>]+")
ROW = re.compile(r"\s*(?://[/!]?|\*)?\s*\|")


def too_long(line):
    return len(line) > MOST and len(URL.sub("", line)) > MOST


def code_faults(text):
    """Yields the lines whose code is too long, without the comment after the code."""
    code = blanked(text, COMMENTS).splitlines()
    for number, (line, whole) in enumerate(zip(code, text.splitlines()), 1):
        line = line.rstrip()
        if line and too_long(whole[: len(line)]):
            yield number, len(line)


def all_faults(text, is_rust):
    """Yields the lines that are too long, except rows of tables in comments and Markdown."""
    code = (blanked(text, COMMENTS) if is_rust else spaces(text)).split("\n")
    for number, (line, in_code) in enumerate(zip(text.split("\n"), code), 1):
        is_row = ROW.match(line) and not in_code.strip()
        if too_long(line) and not is_row:
            yield number, len(line)


def check(root, comments):
    """Returns the faults of a tree, one line each."""
    faults = []
    patterns = ["*.rs", "*.md"] if comments else ["*.rs"]
    for path in tracked(root, *patterns):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        found = all_faults(text, path.endswith(".rs")) if comments else code_faults(text)
        faults += [f"{path}:{number}: {columns} columns" for number, columns in found]
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=ROOT, help="the tree to check")
    parser.add_argument("--comments", action="store_true", help="count comments and Markdown too")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    faults = check(arguments.root, arguments.comments)
    print("\n".join(faults or [f"no line is longer than {MOST} columns"]))
    return 1 if faults else 0


# Self-test.


def filled(start, end=";", length=MOST + 1):
    """Returns a line of this length, filled in the middle."""
    return start + "x" * (length - len(start) - len(end)) + end


# Planted examples: the name, the file and its text, and the number of faults without and with
# comments.
PLANTED = [
    ("a line of 100 columns", "a.rs", filled("let a = ", length=100), 0, 0),
    ("a line of 101 columns", "a.rs", filled("let a = "), 1, 1),
    ("wide letters count as one", "a.rs", filled("let a = é", length=100), 0, 0),
    ("a long string", "a.rs", filled('let a = "', '";'), 1, 1),
    ("a long string with what looks like a comment", "a.rs", filled('let a = "// ', '";'), 1, 1),
    ("a URL in a string", "a.rs", filled('let a = "https://', '";'), 0, 0),
    ("a URL in a line that is too long without it", "a.rs", filled("let a") + ' "http://a";', 1, 1),
    ("a comment", "a.rs", filled("// "), 0, 1),
    ("a doc comment", "a.rs", filled("    /// "), 0, 1),
    ("a block comment", "a.rs", "/*\n" + filled("a ") + "\n*/", 0, 1),
    ("a comment after code", "a.rs", filled("let a = 1; // "), 0, 1),
    ("long code before a comment", "a.rs", filled("let a = ") + " // why", 1, 1),
    ("code after a quote in a comment", "a.rs", "// it's\n" + filled("let a = "), 1, 1),
    ("code in a raw string", "a.rs", 'let a = r#"\n' + filled('"') + '\n"#;', 1, 1),
    ("a row of a table in a doc comment", "a.rs", filled("//! | a | "), 0, 0),
    ("a row of a table in a block comment", "a.rs", "/*\n" + filled(" | ") + "\n*/", 0, 0),
    ("a pattern after a bar", "a.rs", "A\n" + filled("    | B ", " => 1,"), 1, 1),
    ("one after a short comment", "a.rs", filled("/* a */ | B ", " => 1,"), 1, 1),
    ("a comment after a pattern after a bar", "a.rs", filled("| B => 1, // "), 0, 1),
    ("Markdown", "README.md", filled("a "), 0, 1),
    ("a row of a table in Markdown", "README.md", filled("| "), 0, 0),
    ("a link in Markdown", "README.md", filled("see [a](https://", ")."), 0, 0),
]


def self_test():
    for what, path, text, in_code, in_all in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            plant(root, {path: text + "\n"}, track=True)
            found = [len(check(root, comments)) for comments in (False, True)]
        assert found == [in_code, in_all], (what, found)
    print(f"columns: {len(PLANTED)} planted lines reported as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
