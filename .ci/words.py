#!/usr/bin/env python3
"""Checks the wording of doc comments, comments and Markdown.

    python3 .ci/words.py                # the whole tree
    python3 .ci/words.py PATH ..        # some of it
    python3 .ci/words.py --self-test

- The first line of a doc comment begins with a verb or names a thing. It does not begin with a
  word such as What, Who or How.
- The doc comment of a setter states the default on a line that begins with "Default: ".
- A word that this project does not use is reported with the word that it does use.

The changelog quotes old names and is not checked.
"""

import argparse
import os
import re
import sys
import tempfile

from rust_source import COMMENTS, ROOT, blanked, end_of_group, line_of, plant, tokens, tracked

FIRST = re.compile(r"[*_\s]*(?:What|Who|Whoever|How|Whether|For|By|When|Where|Why)\b", re.IGNORECASE)
# A line of a doc comment, or a `doc` attribute with a text.
DOC = re.compile(r"""\s*(?:(///)(?!/)|(//!))[ \t]?(.*)$|\s*#(!?)\[doc\s*=\s*"[ \t]?((?:\\.|[^"\\])*)"\]\s*$""")
STRING = re.compile(r'"(?:\\.|[^"\\])*"')
DOC_BLOCK = re.compile(r"/\*(?:\*(?![*/])|!)[\s*]*")
DEFAULT = re.compile(r"Default: (?:`[^`]+`|(?:none|off|unset|the)\b)")
SAYS_DEFAULT = re.compile(r"(?:Default\b(?! (?:value|implementation|classifier)s?\b)|Defaults to\b|The default is\b)")
SETTER = re.compile(r"\bpub (?:const |unsafe |async )*fn (\$?\w+)\s*(?=[<(])")
# A word to avoid, and the one that this project uses.
INSTEAD = [
    (r"in place of", "instead of"),
    (r"refus(?:e|es|ed|al|als|ing)\b", "reject, rejection"),
    (r"also after", "even after"),
    (r"one['\u2019]s own", "your own"),
    (r"time-outs?\b", "timeout"),
    (r"verdicts?\b", "outcome"),
    (r"nobody knows", "unknown"),
]
# Terms of the protocols.
ALLOWED = re.compile(
    r"REFUSED_STREAM|ConnectionRefused|`[^`]*`"
    r"|(?:stream|connection)s?(?: that)? (?:is |was |are |were )?refused"
    r"|refus(?:ed|es|ing) (?:a |the )?(?:stream|connection)s?",
    re.IGNORECASE,
)


def doc_line(line):
    """Returns the kind and the text of a line of a doc comment, or two times `None`."""
    doc = DOC.match(line)
    if not doc:
        return None, None
    if doc[5] is not None:
        return ("//!" if doc[4] else "///"), doc[5]
    return doc[1] or doc[2], doc[3]


def blocks(text):
    """Yields the line number and the text of the first line of each doc comment."""
    before = None
    attribute = 0
    for number, line in enumerate(text.split("\n"), 1):
        kind, words = doc_line(line)
        code = STRING.sub("", line).strip()
        if kind is None and (attribute or before == "///" and code.startswith("#[")):
            attribute += code.count("[") - code.count("]")
            if attribute == 0 and not code.endswith("]"):
                # The item follows on the line. An attribute alone does not end the comment.
                before = None
            continue
        if kind is not None and kind != before:
            yield number, words
        before = kind
    number = 1
    for token_kind, start, end in tokens(text):
        token = text[start:end]
        if token_kind == "block_comment" and (mark := DOC_BLOCK.match(token)):
            first = token[mark.end() :].split("\n")[0]
            yield number + token.count("\n", 0, mark.end()), first
        number += token.count("\n")


def comments(text):
    """Yields each line of each comment, without its mark."""
    number = 1
    for kind, start, end in tokens(text):
        token = text[start:end]
        if kind in COMMENTS:
            for offset, line in enumerate(token.split("\n")):
                yield number + offset, re.sub(r"^\s*(?://[/!]?|/\*|\*/?)\s?", "", line)
        number += token.count("\n")


def after_generics(code, start):
    """Returns the offset after the angle brackets that may stand at `start`."""
    depth = 0
    for bracket in re.finditer(r"->|[<>(]", code[start:]):
        if depth == 0 and bracket[0] == "(":
            return start + bracket.start()
        depth += {"<": 1, ">": -1}.get(bracket[0], 0)
    return len(code)


def setters(text):
    """Yields the line number, the name and the doc comment of each public setter.

    A setter takes `self` by value and a parameter, and returns `Self`, or another state of the
    builder.
    """
    code = blanked(text)
    lines = text.split("\n")
    for found in SETTER.finditer(code):
        start = after_generics(code, found.end())
        end = end_of_group(code, start)
        parameters = code[start + 1 : end - 1]
        takes = re.match(r"\s*(?:mut )?self\s*(?::\s*Self\s*)?,\s*\w", parameters)
        if not takes or not re.match(r"\s*->\s*(?:Self\b(?!::)|\w+Builder\b)", code[end:]):
            continue
        number = line_of(text, found.start())
        doc, above = [], number - 2
        while above >= 0 and (line := lines[above].strip()):
            words = doc_line(line)[1]
            if words is not None:
                doc.append(words)
            elif re.search(r"[;{}]$", line) or line.startswith("// "):
                # The end of the item before. Other lines belong to attributes.
                break
            above -= 1
        yield number, found[1], doc


def faults(path, text):
    """Yields the line number and the text of each fault of a file."""
    is_rust = path.endswith(".rs")
    lines = comments(text) if is_rust else enumerate(text.split("\n"), 1)
    for number, line in lines:
        if is_rust and SAYS_DEFAULT.match(line) and not DEFAULT.match(line):
            yield number, f'write "Default: `x`.": {line}'
        rest = ALLOWED.sub("", line)
        for word, instead in INSTEAD:
            if re.search(r"\b" + word, rest, re.IGNORECASE):
                yield number, f"write {instead}: {line.strip()}"
    if not is_rust:
        return
    for number, line in blocks(text):
        if FIRST.match(line):
            yield number, f"begins with {line.split()[0]}: {line}"
    if path.startswith(("src/", "crates/")) and "/tests" not in path:
        for number, name, doc in setters(text):
            if not any(DEFAULT.match(line) for line in doc):
                yield number, f"`{name}` does not state its default"


def check(root, paths=()):
    """Returns the faults of a tree as lines."""
    found = []
    for path in tracked(root, *(paths or ["*.rs", "*.md"])):
        if not path.endswith((".rs", ".md")) or os.path.basename(path) == "CHANGELOG.md":
            continue
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        found += [f"{path}:{number}: {fault}" for number, fault in sorted(faults(path, text))]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=ROOT, help="the tree to check")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    found = check(arguments.root, arguments.paths)
    print("\n".join(found or ["comments and pages use the words of the project"]))
    return 1 if found else 0


# Self-test.

SET = "pub fn limit(mut self, limit: u32) -> Self {}"

# What is planted, the file and its text, and the number of faults.
PLANTED = [
    *((f"a first line with {word}", "src/a.rs", f"/// {word} it is.\nfn a() {{}}", 1)
      for word in "What Who Whoever How Whether For By When Where Why".split()),
    ("the first line of a module", "src/a.rs", "//! What it is.", 1),
    ("the first line in tests", "tests/a.rs", "    /// How it is.", 1),
    ("a later line", "src/a.rs", "/// Returns it.\n/// For all of them.", 0),
    ("a first line after a module's", "src/a.rs", "//! A module.\n/// What it is.", 1),
    ("a longer word", "src/a.rs", "/// Formats it.", 0),
    ("a plain comment", "src/a.rs", "// When it is.", 0),
    ("a string", "src/a.rs", 'let a = "/// What";', 0),
    ("a setter", "src/a.rs", "/// Sets it.\n///\n/// Default: `1`.\n" + SET, 0),
    ("a setter with an attribute", "src/a.rs", "/// Default: none.\n#[must_use]\n" + SET, 0),
    ("a setter without a default", "src/a.rs", "/// Sets it.\n" + SET, 1),
    ("a setter without docs", "crates/a/src/a.rs", SET, 1),
    ("a setter of a test", "crates/a/tests/a.rs", SET, 0),
    ("a setter after a long attribute", "src/a.rs", "/// Default: none.\n#[x(\n    y,\n)]\n" + SET, 0),
    ("a setter after an item", "src/a.rs", "/// Default: none.\nconst A: u8 = 1;\n" + SET, 1),
    ("a constant setter", "src/a.rs", SET.replace("pub fn", "pub const fn"), 1),
    ("a setter of another state", "src/a.rs", "pub fn f(self, a: u8) -> ABuilder<u8> {}", 1),
    ("docs in attributes", "src/a.rs", '#[doc = "What it is."]\n#[doc = "For it."]\nfn a() {}', 1),
    ("a default in an attribute", "src/a.rs", '#[doc = "Default: `1`."]\n' + SET, 0),
    ("a block of docs", "src/a.rs", "/**\n * What it is.\n */\nfn a() {}", 1),
    ("a block that is no docs", "src/a.rs", "/* What it is. */\nfn a() {}", 0),
    ("an attribute inside docs", "src/a.rs", "/// A.\n#[a]\n/// For all.\nfn a() {}", 0),
    ("an attribute before the next docs", "src/a.rs", "#[a]\nfn a() {}\n/// How.\nfn b() {}", 1),
    ("an attribute before an item", "src/a.rs", "/// A.\n#[a] A,\n/// How.\nB,", 1),
    ("a bracket in an attribute", "src/a.rs", '/// A.\n#[a("[")]\nA,\n/// How.\nB,', 1),
    ("a setter in a macro", "src/a.rs", SET.replace("limit(", "$name("), 1),
    ("a lower letter", "src/a.rs", "/// what it is.\nfn a() {}", 1),
    ("a first line in bold", "src/a.rs", "/// **How** it is.\nfn a() {}", 1),
    ("a default that is bare", "src/a.rs", "/// Sets it.\n/// Default: 5.", 1),
    ("a generic setter", "src/a.rs", "pub fn f<F: Fn(u8)>(self, f: F) -> Self {}", 1),
    ("a getter", "src/a.rs", "pub fn limit(&self) -> u32 {}", 0),
    ("a switch", "src/a.rs", "pub fn without(mut self) -> Self {}", 0),
    ("a default in another form", "src/a.rs", "/// Sets it.\n/// Defaults to 5.", 1),
    ("a default without a mark", "src/a.rs", "/// Sets it.\n/// Default 5.", 1),
    ("a word", "src/a.rs", "// It refuses the call.", 1),
    ("a word in Markdown", "README.md", "A refusal, in place of a response.", 2),
    ("a word in code", "src/a.rs", "fn refuse() {}", 0),
    ("a word in code font", "README.md", "Call `refuse`.", 0),
    ("a term of a protocol", "src/a.rs", "// The connection was refused: REFUSED_STREAM.", 0),
    ("the changelog", "CHANGELOG.md", "`refuse` was renamed; a refusal is a rejection.", 0),
]


def self_test():
    for what, path, text, count in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            plant(root, {path: text + "\n"}, track=True)
            found = check(root)
        assert len(found) == count, (what, found)
    print(f"words: {len(PLANTED)} planted lines reported as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
