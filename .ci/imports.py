#!/usr/bin/env python3
"""Checks that imports run one way.

    python3 .ci/imports.py                # checks this tree
    python3 .ci/imports.py --arrows       # prints the arrows between rooms as they are
    python3 .ci/imports.py --self-test

A room is a top-level module of `src`. An arrow is an import of one room by another. The list of
arrows is in `ARCHITECTURE.md`, in a block that is fenced as `rooms`, with a line
`room -> rooms it may import` for each room. The check fails

- if rooms or files import each other in a circle,
- if an arrow is not in the list,
- if a room is missing in the list, or the list has a room or an arrow that does not exist.

In `crates/*/src`, only the files are checked for circles. The root of the crate may import
anything.

An import is a `use`, a path in code, or an invocation of a macro. It leads to the file that defines
the item, past re-exports. A `mod.rs` that only declares and re-exports is therefore not imported.
A `pub use` of a child is an import only if the file uses the name itself. Tests, comments and
literals are ignored. Code under any other `cfg` and in macros is checked. A crate must not name
itself with `extern crate self`, because imports by that name would not be found.
"""

import argparse
import os
import re
import sys
import tempfile
from collections import defaultdict, deque, namedtuple

from rust_source import INLINE_MODULE, ROOT, crates, end_of_group, library, plant, spaces

ARCHITECTURE = "ARCHITECTURE.md"
USE = re.compile(r"(?<![\w#])(?P<public>pub\b\s*(?:\([^)]*\)\s*)?)?use\s+(?P<tree>[^;]+);")
DEFINITION = re.compile(
    r"(?<![\w#])(?:fn|struct|enum|union|trait|type|static(?:\s+mut)?|const|macro_rules\s*!)\s+"
    r"(?!(?:fn|unsafe|async|extern)\b)(\w+)"
)
# A path is not a field or a method, except after `..`. It is not the rest of a longer path.
PATH = re.compile(r"(?<![\w:$#])(?<!(?<!\.)\.)(?:\$crate|\w+)(?:\s*::\s*\w+)+")
EXTERN_SELF = re.compile(r"(?<![\w#])extern\s+crate\s+self\b")
MACRO = re.compile(r"(?<![\w:$#])(\w+)\s*!\s*(?=[(\[{])")

Leaf = namedtuple("Leaf", "path name offset")
# An import: the importing and the imported file, the place in the first, and its text.
Import = namedtuple("Import", "importer imported source offset text")


# Parsing one file.


def leaves(tree, offset, prefix=()):
    """Yields the leaves of the tree of a `use`."""
    opening = tree.find("{")
    if opening < 0:
        path, _, alias = re.sub(r"\s+", " ", tree).strip().partition(" as ")
        names = (*prefix, *filter(None, (name.strip() for name in path.split("::"))))
        if names[-1] == "self" and len(names) > 1:
            names = names[:-1]
        start = offset + len(tree) - len(tree.lstrip())
        yield Leaf(names, alias.strip() or names[-1], start)
        return
    prefix = (*prefix, *filter(None, (name.strip() for name in tree[:opening].split("::"))))
    for start, branch in branches(tree[opening + 1 : tree.rindex("}")]):
        yield from leaves(branch, offset + opening + 1 + start, prefix)


def branches(text):
    """Yields the parts of a list in braces, and their offsets."""
    start = depth = 0
    for mark in re.finditer(r"[{},]", text + ","):
        depth += {"{": 1, "}": -1, ",": 0}[mark[0]]
        if mark[0] == "," and depth == 0:
            if text[start : mark.start()].strip():
                yield start, text[start : mark.start()]
            start = mark.end()


def outermost(code):
    """Returns the code with spaces instead of the content of braces, except those of a macro."""
    position = 0
    while (opening := code.find("{", position)) >= 0:
        if re.search(r"!\s*$", code[:opening]):
            position = opening + 1
            continue
        position = end_of_group(code, opening)
        code = code[:opening] + spaces(code[opening:position]) + code[position:]
    return code


class Module:
    """A module: a file, or an inline module within one."""

    def __init__(self, name, file, source):
        self.name, self.file, self.source = name, file, source
        self.items = set()
        # Paths, by the name that a `use` binds.
        self.bindings = defaultdict(list)
        self.globs = []
        self.uses = []
        # Paths and macros in code, with their offsets.
        self.paths = []
        self.macros = []

    def read(self, code):
        """Reads the code of the module, without its inline modules."""
        for use in USE.finditer(code):
            for leaf in leaves(use["tree"], use.start("tree")):
                self.uses.append((leaf, bool(use["public"])))
                if leaf.name == "*":
                    self.globs.append(leaf.path[:-1])
                else:
                    self.bindings[leaf.name].append(leaf.path)
        self.code = USE.sub(lambda use: spaces(use[0]), re.sub(r"\bpub\s*\([^)]*\)", blank, code))
        self.items = set(DEFINITION.findall(outermost(self.code)))
        for path in PATH.finditer(self.code):
            self.paths.append((tuple(re.split(r"\s*::\s*", path[0])), path.start()))
        for macro in MACRO.finditer(self.code):
            self.macros.append((macro[1], macro.start()))

    def mentions(self, name):
        return bool(re.search(rf"(?<![\w#]){name}\b", self.code))


def blank(found):
    return spaces(found[0])


def modules_of(name, source):
    """Yields the module of a file and its inline modules."""
    yield from inline(name, name, source, source.code)


def inline(name, file, source, code):
    module = Module(name, file, source)
    position = 0
    while found := INLINE_MODULE.search(code, position):
        position = end_of_group(code, found.end())
        # Blanked on both sides. The offsets are then the offsets in the file.
        body = spaces(code[: found.end() + 1]) + code[found.end() + 1 : position - 1]
        yield from inline((*name, found[1]), file, source, body + spaces(code[position - 1 :]))
        code = code[: found.start()] + spaces(code[found.start() : position]) + code[position:]
    module.read(code)
    yield module


# Resolving.


class Crate:
    """All modules of a crate."""

    def __init__(self, root, folder):
        self.modules = {}
        for name, source in library(root, folder).items():
            for module in modules_of(name, source):
                self.modules[module.name] = module
        self.macros = defaultdict(set)
        for module in self.modules.values():
            for name in re.findall(r"macro_rules\s*!\s*(\w+)", module.code):
                self.macros[name].add(module.file)

    def has_children(self, name):
        return any(other[:-1] == name for other in self.modules if other)

    def resolve(self, path, at, seen=frozenset()):
        """Returns the files that define the item of a path, or none outside the crate."""
        first, *rest = path
        if first in ("crate", "$crate"):
            return self.walk((), rest, seen)
        if first in ("self", "super"):
            start = at if first == "self" else at[:-1]
            while rest and rest[0] == "super":
                start, rest = start[:-1], rest[1:]
            return self.walk(start, rest, seen)
        module = self.modules[at]
        if (*at, first) in self.modules or first in module.items or first in module.bindings:
            return self.walk(at, path, seen)
        return set()

    def walk(self, name, rest, seen):
        if not rest:
            return self.whole(name)
        child = (*name, rest[0])
        if child not in self.modules:
            return self.item(self.modules[name], rest, seen)
        found = self.walk(child, rest[1:], seen)
        # A function or a macro may have the same name as a module.
        return found if len(rest) > 1 else found | self.named(self.modules[name], rest, seen)

    def item(self, module, rest, seen):
        if rest[0] == "*":
            if (module.name, "*") in seen:
                return set()
            seen = seen | {(module.name, "*")}
            names = [*module.items, *module.bindings]
            own = (self.named(module, [name], seen) for name in names)
            globs = (self.resolve((*path, "*"), module.name, seen) for path in module.globs)
            return set().union(*own, *globs)
        if rest[0] in module.items or rest[0] in module.bindings:
            return self.named(module, rest, seen)
        # The item comes from a glob or a macro.
        globs = (self.resolve(path, module.name, seen) for path in module.globs)
        return {module.file}.union(*globs)

    def named(self, module, rest, seen):
        """Returns the files that define the items that a module defines or imports by a name."""
        first = rest[0]
        found = {module.file} if first in module.items else set()
        if first in module.bindings and (module.name, first) not in seen:
            for path in module.bindings[first]:
                seen = seen | {(module.name, first)}
                found |= self.resolve((*path, *rest[1:]), module.name, seen)
        return found

    def whole(self, name):
        """Returns the file of the module that a path ends with, unless it only has child modules."""
        if name not in self.modules or self.has_children(name):
            return set()
        return {self.modules[name].file}

    def imports(self):
        """Yields every import that leads to another file."""
        for module in self.modules.values():
            for path, offset, text in self.outward(module):
                for file in self.resolve(path, module.name):
                    if file != module.file:
                        yield Import(module.file, file, module.source, offset, text)
            yield from self.of_macros(module)

    def outward(self, module):
        for leaf, public in module.uses:
            if not (public and self.is_facade(module, leaf)):
                yield leaf.path, leaf.offset, "use " + "::".join(leaf.path)
        for path, offset in module.paths:
            yield path, offset, "::".join(path)

    def is_facade(self, module, leaf):
        """Returns whether a re-export only passes on the items of a child module."""
        files = self.resolve(leaf.path, module.name)
        beneath = all(file[: len(module.name)] == module.name for file in files)
        return beneath and (leaf.name == "*" or not module.mentions(leaf.name))

    def of_macros(self, module):
        for name, offset in module.macros:
            if name in module.bindings or module.file in self.macros[name]:
                continue
            for file in self.macros[name]:
                yield Import(module.file, file, module.source, offset, f"{name}!")


# Graphs.


def arrows(imports, node):
    """Returns the first import for each pair of nodes."""
    found = {}
    for one in imports:
        pair = node(one.importer), node(one.imported)
        if pair[0] != pair[1]:
            found.setdefault(pair, one)
    return found


def circles(pairs):
    """Returns each group of nodes that reach each other, and a shortest circle in it."""
    onward = defaultdict(set)
    for importer, imported in sorted(pairs):
        onward[importer].add(imported)
    found, known = [], set()
    back = backward(onward)
    for node in sorted(onward):
        knot = reach(onward, node) & reach(back, node)
        if node in knot and node not in known:
            known |= knot
            ways = [way(onward, one) for one in sorted(knot)]
            found.append((sorted(knot), min(ways, key=len)))
    return found


def backward(onward):
    found = defaultdict(set)
    for importer, all_imported in onward.items():
        for imported in all_imported:
            found[imported].add(importer)
    return found


def reach(onward, start):
    reached, ahead = set(), [start]
    while ahead:
        for node in onward.get(ahead.pop(), ()):
            if node not in reached:
                reached.add(node)
                ahead.append(node)
    return reached


def way(onward, start):
    """Returns the nodes of a shortest way from a node back to it, with the node first and last."""
    ways = deque([(start,)])
    seen = set()
    while ways:
        nodes = ways.popleft()
        for node in sorted(onward.get(nodes[-1], ())):
            if node == start:
                return (*nodes, node)
            if node not in seen:
                seen.add(node)
                ways.append((*nodes, node))
    return ()


# The list of rooms.


def room(name):
    return name[0] if name else "lib"


def listed_rooms(text):
    """Returns the rooms that each room may import, or `None` without a list."""
    block = re.search(r"^```rooms\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if block is None:
        return None
    rooms = {}
    # A line that begins with a space continues the one before.
    for line in re.sub(r"\n +", " ", block[1]).splitlines():
        importer, arrow, imported = line.partition("->")
        if arrow:
            names = (name.strip() for name in imported.split(","))
            rooms[importer.strip()] = set(filter(None, names))
    return rooms


def rule_faults(listed, rooms, found):
    """Yields the differences between the arrows and their list."""
    for name in sorted(rooms - set(listed)):
        yield f"{ARCHITECTURE}: the list does not name the room `{name}`"
    for name in sorted(set(listed) - rooms):
        yield f"{ARCHITECTURE}: there is no room `{name}`"
    for (importer, imported), one in sorted(found.items()):
        if importer in listed and imported not in listed[importer]:
            may = ", ".join(sorted(listed[importer])) or "no room"
            yield f"{place(one)}: `{importer}` must not import `{imported}`; it may import {may}"
    for importer, all_imported in sorted(listed.items()):
        for imported in sorted(all_imported):
            if importer in rooms and (importer, imported) not in found:
                yield f"{ARCHITECTURE}: no import makes the arrow `{importer} -> {imported}`"


def place(one):
    return f"{one.source.path}:{one.source.line(one.offset)}: `{one.text}`"


# The check.


def circle_faults(what, found, name):
    for knot, nodes in circles(found):
        yield f"a circle of {len(knot)} {what}: {', '.join(map(name, knot))}"
        for pair in zip(nodes, nodes[1:]):
            yield f"    {place(found[pair])}: {name(pair[0])} -> {name(pair[1])}"


def file_name(module):
    return "::".join(module) or "lib"


def without_root(found):
    """Returns the arrows, without those of the root, which may re-export anything."""
    return {pair: one for pair, one in found.items() if pair[0] != "lib"}


def check(root):
    """Returns the faults of a tree, one line each."""
    faults = []
    for folder in crates(root):
        crate = Crate(root, folder)
        imports = list(crate.imports())
        faults += self_faults(crate)
        faults += circle_faults("files", arrows(imports, lambda file: file), file_name)
        if folder == "src":
            found = arrows(imports, room)
            faults += circle_faults("modules", found, str)
            faults += list_faults(root, crate, without_root(found))
    return faults


def self_faults(crate):
    """Yields the places where the crate gives itself a name, which `resolve` does not find."""
    for module in crate.modules.values():
        for found in EXTERN_SELF.finditer(module.code):
            line = module.source.line(found.start())
            yield (
                f"{module.source.path}:{line}: `extern crate self`: imports by that name look like"
                " those of another crate and would not be checked; use `crate`"
            )


def list_faults(root, crate, found):
    path = os.path.join(root, ARCHITECTURE)
    listed = None
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            listed = listed_rooms(file.read())
    if listed is None:
        return [f"{ARCHITECTURE}: it has no block that is fenced as `rooms`"]
    rooms = {room(name) for name in crate.modules} - {"lib"}
    return list(rule_faults(listed, rooms, found))


def print_arrows(root):
    crate = Crate(root, "src")
    found = without_root(arrows(crate.imports(), room))
    for name in sorted({room(name) for name in crate.modules} - {"lib"}):
        print(f"{name} -> {', '.join(sorted(to for of, to in found if of == name))}".rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=ROOT, help="the tree to check")
    parser.add_argument("--arrows", action="store_true", help="print the arrows between rooms")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if arguments.arrows:
        return print_arrows(arguments.root)
    faults = check(arguments.root)
    print("\n".join(faults or ["imports run one way"]))
    return 1 if faults else 0


# Self-test.


def self_test():
    from imports_planted import LEGAL, PLANTED

    for what, files, expected in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            plant(root, LEGAL | files)
            found = [fault for fault in check(root) if not fault.startswith(" ")]
        agree = len(found) == len(expected) and all(map(str.startswith, found, expected))
        assert agree, f"{what}: expected {expected}, found {found}"
    print(f"imports: {len(PLANTED)} planted trees reported as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
