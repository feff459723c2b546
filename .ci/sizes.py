#!/usr/bin/env python3
"""Checks that no file and no function is too long.

    python3 .ci/sizes.py
    python3 .ci/sizes.py --self-test

In `src` and `crates/*/src`, a file has at most 450 lines without its tests. A function has at most
80 lines, from its `fn` to its closing brace. A longer one must give its reason in a comment
`// long: <reason>`, within the first five lines of the file or of the function's body.
"""

import argparse
import os
import re
import sys
import tempfile

from rust_source import ROOT, crates, end_of_group, library, plant, test_items

MOST_LINES = {"file": 450, "function": 80}
REASON = re.compile(r"^\s*// long: \S")
REASON_WITHIN = 5
FUNCTION = re.compile(r"(?<![\w#])fn\s+(\w+)")


def functions(code):
    """Yields the name of each function with a body, and the offsets of both."""
    for function in FUNCTION.finditer(code):
        position = function.end()
        while mark := re.compile(r"[(\[{;)\]}]").search(code, position):
            if mark[0] == "{":
                yield function[1], function.start(), mark.start()
            if mark[0] not in "([":
                break
            position = end_of_group(code, mark.start())


def gives_reason(lines):
    return any(REASON.match(line) for line in lines[:REASON_WITHIN])


def too_long(kind, count, first_lines):
    return count > MOST_LINES[kind] and not gives_reason(first_lines)


def lines_without_tests(source):
    """Returns the number of lines of a file, without its tests."""
    tests = set()
    for start, end, _ in test_items(source.code_and_tests):
        tests.update(range(source.line(start), source.line(end - 1) + 1))
    return len(source.text.splitlines()) - len(tests)


def faults(source):
    """Yields the faults of a file, one line each."""
    lines = source.text.splitlines()
    count = lines_without_tests(source)
    if too_long("file", count, lines):
        yield f"{source.path}: {count} lines, more than {MOST_LINES['file']}"
    for name, start, body in functions(source.code):
        first, last = source.line(start), source.line(end_of_group(source.code, body) - 1)
        count = last - first + 1
        if too_long("function", count, lines[source.line(body) :]):
            most = MOST_LINES["function"]
            yield f"{source.path}:{first}: `{name}` has {count} lines, more than {most}"


def check(root):
    """Returns the faults of a tree, one line each."""
    sources = (source for folder in crates(root) for source in library(root, folder).values())
    return [fault for source in sources for fault in faults(source)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=ROOT, help="the tree to check")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    found = check(arguments.root)
    print("\n".join(found or ["no file and no function is too long"]))
    return 1 if found else 0


# Self-test.


def function(lines, body="    work();\n", start="fn long() {\n"):
    """Returns a function of this number of lines."""
    fixed = start.count("\n") + body.count("\n") + 1
    return start + body + "    work();\n" * (lines - fixed) + "}\n"


def file(lines, start="", end=""):
    """Returns a file of this number of lines."""
    return start + "use a::b;\n" * (lines - (start + end).count("\n")) + end


TESTS = "#[cfg(test)]\nmod tests {\n" + "    // why\n\n    use a::b;\n" * 50 + "}\n"
INNER_TESTS = TESTS.replace("#[cfg(test)]\nmod tests {", "mod tests {\n    #![cfg(test)]")
LITERALS = """    let a = '{'; let b = "{"; let c = r#"}"{"#; // {{{ it's
    let d: &'static str = "\\\\"; /* { */
"""
LATE, SHORT = "use a;\n" * 5 + "// long: it is\n", "    fn b() {}\n"
SIGNATURE = "fn long(\n    a: B,\n) -> C\nwhere\n    D: E,\n{\n"
LONG, TOO_LONG = "src/lib.rs:1: `long` has 81", "src/lib.rs: 451 lines"
PLANTED = [
    ("a file of 450 lines", file(450), []),
    ("a file of 451", file(451), [TOO_LONG]),
    ("one with a reason", file(451, start="//! A table.\n\n// long: it is a table\n"), []),
    ("one without it", file(451, start="// long:\n"), [TOO_LONG]),
    ("one with a reason too late", file(451, start=LATE), [TOO_LONG]),
    ("tests at its end do not count", file(450) + TESTS, []),
    ("nor do they excuse it", file(451) + TESTS, [TOO_LONG]),
    ("a file of tests", file(451, start="#![cfg(test)]\n"), []),
    ("an inline module of tests", file(450) + INNER_TESTS, []),
    ("a function after it", INNER_TESTS + function(81), ["src/lib.rs:154: `long` has 81"]),
    ("a function of 80 lines", function(80), []),
    ("a function of 81", function(81), [LONG]),
    ("a method", "impl A {\n" + function(81) + "}\n", ["src/lib.rs:2: `long`"]),
    ("its signature counts", function(81, start=SIGNATURE), [LONG]),
    ("its attributes do not", "#[inline]\n" + function(80), []),
    ("an array in its signature", function(81, start="fn long(a: [u8; 2]) -> [u8; 2] {\n"), [LONG]),
    ("a reason", function(81, body="    // long: one arm each\n"), []),
    ("a reason after five lines", function(81, body="    a;\n" * 5 + "    // long: no\n"), [LONG]),
    ("braces in literals and comments", function(80, body=LITERALS) + function(5), []),
    ("the same in one that is too long", function(81, body=LITERALS), [LONG]),
    ("a declaration in a trait", "trait A {\n    fn long();\n" + SHORT * 90 + "}\n", []),
    ("a pointer to a function", "type A = fn(B) -> C;\n" * 90, []),
    ("a test", "#[test]\n#[cfg(test)]\n" + function(81), []),
]


def self_test():
    for what, text, expected in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            plant(root, {"src/lib.rs": text, "src/tests/long.rs": file(451)})
            found = check(root)
        agree = len(found) == len(expected) and all(map(str.startswith, found, expected))
        assert agree, (what, expected, found)
    print(f"sizes: {len(PLANTED)} planted files reported as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
