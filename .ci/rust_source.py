"""Reads Rust source for the checks, and separates code, comments and tests.

Removed parts are replaced by spaces. Offsets and lines do not change.
"""

import functools
import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The order matters. A prefix of a literal is not an identifier, and a lifetime is not a character.
TOKEN = re.compile(
    r"""
      (?P<line_comment> //[^\n]* )
    | (?P<block_comment> /\* )
    | (?P<raw_string> (?:br|cr|r) (?P<hashes>\#*) " .*? " (?P=hashes) )
    | (?P<string> [bc]? " (?: \\. | [^"\\] )* " )
    | (?P<char> b? ' (?: \\u\{[^}]*\} | \\x[0-9a-fA-F]{2} | \\. | [^'\\\n] ) ' )
    | (?P<lifetime> '\w+ )
    | (?P<word> (?:r\#)? \w+ )
    | (?P<space> \s+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
COMMENTS = {"line_comment", "block_comment"}
LITERALS = {"raw_string", "string", "char"}


def tokens(text):
    """Yields the kind, the start and the end of each token."""
    position = 0
    while position < len(text):
        token = TOKEN.match(text, position)
        kind, end = token.lastgroup, token.end()
        if token["raw_string"] is not None:
            kind = "raw_string"
        if kind == "block_comment":
            end = end_of_block_comment(text, position)
        yield kind, position, end
        position = end


def end_of_block_comment(text, start):
    depth = 0
    for mark in re.finditer(r"/\*|\*/", text[start:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return start + mark.end()
    return len(text)


def spaces(text):
    return re.sub(r"[^\n]", " ", text)


def blanked(text, kinds=frozenset(COMMENTS | LITERALS)):
    """Returns the text with spaces instead of tokens of these kinds."""
    parts = []
    for kind, start, end in tokens(text):
        token = text[start:end]
        parts.append(spaces(token) if kind in kinds else token)
    return "".join(parts)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


# Brackets, in text without comments and literals.

CLOSING = {"(": ")", "[": "]", "{": "}"}


def end_of_group(code, start):
    """Returns the offset after the bracket that closes the one at `start`."""
    depth = 0
    for bracket in re.finditer(r"[(\[{)\]}]", code[start:]):
        depth += 1 if bracket[0] in CLOSING else -1
        if depth == 0:
            return start + bracket.end()
    return len(code)


# Tests.

ATTRIBUTE = re.compile(r"\s*#\s*(?=\[)")
ITEM = re.compile(
    r"\s*(?:pub\b(?:\s*\([^)]*\))?\s*)?"
    r"(?P<word>mod|use|extern|const|static|type|let|fn|impl|struct|enum|union|trait|unsafe|async"
    r"|macro_rules)\b(?:\s+(?P<name>\w+))?"
)
TO_SEMICOLON = {"use", "const", "static", "type", "let"}
# A function or a block.
AFTER_CONST = {"fn", "unsafe", "async", "extern", None}
INLINE_MODULE = re.compile(r"(?<![\w#])(?:pub\b\s*(?:\([^)]*\)\s*)?)?mod\s+(\w+)\s*(?=\{)")
# Inner attributes at the head of a file or of an inline module.
TEST_HEAD = re.compile(r"(?:\s*#\s*!\s*\[[^\]]*\])*?\s*#\s*!\s*\[\s*cfg\s*\(\s*test\s*\)")
# Expressions that end with their braces, as a statement or as the body of an arm.
BLOCK = re.compile(
    r"\s*(?:(?:'\w+\s*:\s*)?(?:(?:if|match|while|for|loop|unsafe)\b|\{)"
    r"|\w+(?:\s*::\s*\w+)*\s*!\s*\{)"
)
# Tokens after braces that continue the statement. `=` and `in` follow a pattern.
BLOCK_GOES_ON = re.compile(r"\s*(?:[.,;?=]|(?:else|in)\b)")
GOES_ON = re.compile(r"\s*(?:[.,;?=<>|&+*/%^-]|(?:as|else|if)\b)")


def means_test(predicate):
    """Returns whether a predicate of `cfg` is true in tests only."""
    predicate = re.sub(r"\s", "", predicate)
    if within_all := re.fullmatch(r"all\((.*)\)", predicate):
        return any(map(means_test, parts(within_all[1])))
    return predicate in ("test", "doctest")


def parts(text):
    """Returns the parts between the commas that are outside brackets."""
    found, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


def test_items(code):
    """Yields the start, the end and the match of each item that is compiled for tests only."""
    if TEST_HEAD.match(code):
        yield 0, len(code), None
        return
    for module in INLINE_MODULE.finditer(code):
        if TEST_HEAD.match(code, module.end() + 1):
            start = module.start()
            yield start, end_of_group(code, module.end()), ITEM.match(code, start)
    end = 0
    for attribute in re.finditer(r"#\s*\[\s*cfg\s*\(", code):
        opening = attribute.end() - 1
        closing = end_of_group(code, opening)
        if attribute.start() < end or not means_test(code[opening + 1 : closing - 1]):
            continue
        end, item = end_of_item(code, end_of_group(code, code.index("[", attribute.start())))
        yield attribute.start(), end, item


def end_of_item(code, start):
    """Returns the end of the item after an attribute, and the match of its first words."""
    while attribute := ATTRIBUTE.match(code, start):
        start = end_of_group(code, attribute.end())
    item = ITEM.match(code, start)
    # Without a match, it is a field, a variant, an arm or an expression.
    mark = re.compile(r"[(\[{)\]};]" if item else r"[(\[{)\]};,]|=>")
    goes_on = what_goes_on(code, start)
    while found := mark.search(code, start):
        if found[0] == "=>":
            start = found.end()
            goes_on = what_goes_on(code, start)
            continue
        if found[0] in ")]}":
            return found.start(), item
        if found[0] not in CLOSING:
            return found.end(), item
        start = end_of_group(code, found.start())
        if found[0] == "{" and (ends_with_braces(item) if item else not goes_on.match(code, start)):
            return start, item
    return len(code), item


def what_goes_on(code, start):
    """Returns the pattern of tokens that continue a statement, a field or an arm after braces."""
    return BLOCK_GOES_ON if BLOCK.match(code, start) else GOES_ON


def ends_with_braces(item):
    if item["word"] == "const":
        return item["name"] in AFTER_CONST
    return item["word"] not in TO_SEMICOLON


def without_tests(code):
    """Returns the code with spaces instead of items that are compiled for tests only."""
    for start, end, _ in list(test_items(code)):
        code = code[:start] + spaces(code[start:end]) + code[end:]
    return code


def is_test_path(path):
    """Returns whether a folder or the file itself is named `tests`."""
    return "tests" in re.split(r"[/\\]", re.sub(r"\.rs$", "", path))


# Files.


class Source:
    """A file of Rust source."""

    def __init__(self, root, path):
        self.path = path
        with open(os.path.join(root, path), encoding="utf-8") as file:
            self.text = file.read()

    @functools.cached_property
    def code_and_tests(self):
        return blanked(self.text)

    @functools.cached_property
    def code(self):
        """The text without comments, literals and tests."""
        return without_tests(self.code_and_tests)

    def line(self, offset):
        return line_of(self.text, offset)


def module_of(path, folder):
    """Returns the module of a file as a tuple of names, empty for the root of the crate."""
    names = os.path.relpath(path, folder)[: -len(".rs")].split(os.sep)
    if names[-1] in ("mod", "lib", "main") and (len(names) == 1 or names[-1] == "mod"):
        names = names[:-1]
    return tuple(names)


def library(root, folder):
    """Returns the sources by module of the crate whose root is in `folder`, without tests."""
    sources = {}
    for directory, _, names in os.walk(os.path.join(root, folder)):
        for name in names:
            path = os.path.relpath(os.path.join(directory, name), root)
            if name.endswith(".rs") and not is_test_path(os.path.relpath(path, folder)):
                sources[module_of(path, folder)] = Source(root, path)
    for module in test_modules(sources):
        sources = {m: s for m, s in sources.items() if m[: len(module)] != module}
    return dict(sorted(sources.items()))


def test_modules(sources):
    """Returns the modules in separate files that are declared for tests only."""
    return [
        (*module, *inline_modules_at(source.code_and_tests, start), item["name"])
        for module, source in sources.items()
        for start, _, item in test_items(source.code_and_tests)
        if item and item["word"] == "mod"
    ]


def inline_modules_at(code, offset):
    """Returns the names of the inline modules around an offset."""
    modules = INLINE_MODULE.finditer(code, 0, offset)
    return [found[1] for found in modules if end_of_group(code, found.end()) > offset]


def crates(root):
    """Returns the folders of sources: `src`, and the `src` of each crate in `crates`."""
    members = os.path.join(root, "crates")
    names = sorted(os.listdir(members)) if os.path.isdir(members) else []
    folders = ["src", *(os.path.join("crates", name, "src") for name in names)]
    return [folder for folder in folders if os.path.isdir(os.path.join(root, folder))]


def tracked(root, *patterns):
    """Returns the paths of tracked and new files that match a pattern of git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    paths = sorted(set(done.stdout.splitlines()))
    return [path for path in paths if os.path.exists(os.path.join(root, path))]


def plant(root, files, track=False):
    """Writes files for a self-test."""
    if track:
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    for path, text in files.items():
        path = os.path.join(root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
