"""Planted trees for the self-test of `imports.py`."""

import re

LEGAL = {
    "ARCHITECTURE.md": "```rooms\nlow ->\nhigh ->\n    low\n```\n",
    "src/lib.rs": "mod low; pub mod high; pub use self::high::Thing;",
    "src/low.rs": "pub(crate) struct Ground;",
    "src/high/mod.rs": "mod one; mod two; pub use self::{one::Thing, two::Other};",
    "src/high/one.rs": "use crate::low::Ground; pub struct Thing(Ground);",
    # This imports the sibling, not the parent that re-exports it.
    "src/high/two.rs": "use super::Thing; pub struct Other(Thing);",
}
FILES, MODULES = "a circle of 2 files", "a circle of 2 modules"
# Planted examples: the name, the files, and the first words of the faults that must be found.
PLANTED = [
    ("a legal tree", {}, []),
    (
        "through super",
        {"src/high/one.rs": "use crate::low::Ground; use super::two::Other; pub struct Thing;"},
        [FILES],
    ),
    (
        "through a re-export of the parent",
        {"src/high/one.rs": "use crate::low::Ground; use super::Other; pub struct Thing(Other);"},
        [FILES],
    ),
    (
        "through an item of a mod.rs that uses its child",
        {
            "src/high/mod.rs": "mod one; mod two; pub use self::one::Thing; struct Own(Thing);",
            "src/high/one.rs": "use crate::low::Ground; pub struct Thing(Ground, super::Own);",
        },
        [FILES],
    ),
    (
        "no circle through an item of a mod.rs that only re-exports its child",
        {
            "src/high/mod.rs": "mod one; mod two; pub use self::one::Thing; struct Own;",
            "src/high/one.rs": "use crate::low::Ground; pub struct Thing(Ground, super::Own);",
        },
        [],
    ),
    (
        "through an inline path",
        {"src/low.rs": "pub struct Ground; fn f() -> crate::high::Other { todo!() }"},
        ["a circle of 3 files", MODULES, "src/low.rs:1: `crate::high::Other`: `low` must not"],
    ),
    (
        "through a re-export of the root",
        {"src/low.rs": "pub struct Ground; fn f() -> Vec<crate::Thing> { Vec::new() }"},
        [FILES, MODULES, "src/low.rs:1: `crate::Thing`: `low` must not"],
    ),
    (
        "through a path that starts at an imported module",
        {"src/low.rs": "use crate::high;\npub struct Ground; fn f(_: high::Thing) {}"},
        [FILES, MODULES, "src/low.rs:2: `high::Thing`: `low` must not"],
    ),
    (
        "in nested braces, renamed",
        {"src/low.rs": "use crate::{\n high::{one::{self, Thing as T}}};\npub struct Ground;"},
        [FILES, MODULES, "src/low.rs:2: `use crate::high::one`: `low` must not"],
    ),
    (
        "in an inline module",
        {"src/low.rs": "pub struct Ground; mod own { fn f(_: super::super::high::Thing) {} }"},
        [FILES, MODULES, "src/low.rs:1: `super::super::high::Thing`: `low` must not"],
    ),
    (
        "in a macro, and by its invocation",
        {
            "src/low.rs": "pub struct Ground; macro_rules! of { () => { $crate::high::Thing } }",
            "src/high/one.rs": "use crate::low::Ground; pub struct Thing(Ground); type T = of!();",
        },
        [FILES, MODULES, "src/low.rs:1: `$crate::high::Thing`: `low` must not"],
    ),
    (
        "of an item within a macro",
        {"src/high/one.rs": "use super::two::X; pin_project! { pub struct Thing { x: X } }"},
        [FILES, "ARCHITECTURE.md: no import makes the arrow `high -> low`"],
    ),
    (
        "under a feature",
        {"src/low.rs": "pub struct Ground; #[cfg(feature = \"x\")] use crate::high::Thing;"},
        [FILES, MODULES, "src/low.rs:1: `use crate::high::Thing`: `low` must not"],
    ),
    (
        "after literals that look like the start of a comment or a string",
        {
            "src/low.rs": """pub struct Ground; const A: char = '"'; const B: &str = r#"// "#;
            fn f<'a>(x: &'a str) -> char { '\\'' } fn g(_: crate::high::Thing) {}"""
        },
        [FILES, MODULES, "src/low.rs:2: `crate::high::Thing`: `low` must not"],
    ),
    (
        "none in comments and literals",
        {
            "src/low.rs": """pub struct Ground; // use crate::high::Thing;
            /* use crate::high::Thing; /* nested */ use crate::high::Thing; */
            /// [`crate::high::Thing`]
            const A: &str = "\\" use crate::high::Thing; "; const B: &[u8] = b"crate::high::Thing";
            const C: &str = r##" "# use crate::high::Thing; "##;"""
        },
        [],
    ),
    (
        "none in tests",
        {
            "src/low.rs": """pub struct Ground { #[cfg(test)] of: crate::high::Thing, other: u8 }
            #[cfg(test)] use crate::high::{one, Thing};
            #[cfg(all(test, feature = "x"))] #[allow(unused)] fn f<A, B>(_: crate::high::Thing) {}
            #[cfg(test)] mod tests { use crate::high::Thing; }
            #[cfg(test)] mod model; #[cfg(test)] const fn g() -> crate::high::Thing { todo!() }""",
            "src/low/model.rs": "use crate::high::Thing;",
            "src/high/tests/mod.rs": "use crate::high::{Thing, Other}; mod deep;",
            "src/high/tests/deep.rs": "use super::super::one::Thing;",
            "src/low/tests.rs": "use crate::high::Thing;",
        },
        [],
    ),
    (
        "code after a test",
        {"src/low.rs": "#[cfg(test)] use a::{b}; pub struct Ground; type T = crate::high::Thing;"},
        [FILES, MODULES, "src/low.rs:1: `crate::high::Thing`: `low` must not"],
    ),
    (
        "external crates with the name of a module",
        {"src/low.rs": "use high::Thing; use ::high::Other; pub struct Ground; type T = high::X;"},
        [],
    ),
    (
        "a room that is not listed",
        {"src/new.rs": "", "src/lib.rs": "mod low; pub mod high; mod new;"},
        ["ARCHITECTURE.md: the list does not name the room `new`"],
    ),
    (
        "an arrow that is not listed",
        {"ARCHITECTURE.md": "```rooms\nlow ->\nhigh ->\n```\n"},
        ["src/high/one.rs:1: `use crate::low::Ground`: `high` must not import `low`"],
    ),
    (
        "an arrow and a room that are gone",
        {"ARCHITECTURE.md": "```rooms\nlow -> old\nhigh -> low\nold ->\n```\n"},
        [
            "ARCHITECTURE.md: there is no room `old`",
            "ARCHITECTURE.md: no import makes the arrow `low -> old`",
        ],
    ),
    ("no list", {"ARCHITECTURE.md": "# Rooms\n"}, ["ARCHITECTURE.md: it has no block"]),
    (
        "in another crate",
        {
            "crates/other/src/lib.rs": "mod a; mod b;",
            "crates/other/src/a.rs": "use crate::b::B; pub struct A(B);",
            "crates/other/src/b.rs": "use super::a::A; pub struct B(A);",
        },
        [FILES],
    ),
    (
        "through globs of globs",
        {
            "src/low.rs": "pub struct Ground; use crate::high::*;",
            "src/high/mod.rs": "mod one; mod two; pub use self::one::*;",
            "src/high/one.rs": "use crate::low::Ground; pub struct Thing(Ground);",
        },
        [FILES, MODULES, "src/low.rs:1: `use crate::high::*`: `low` must not"],
    ),
    (
        "globs that lead to each other",
        {
            "src/high/mod.rs": "mod one; mod two; pub use self::{one::*, two::*};",
            "src/high/one.rs": "pub use super::two::*; pub struct Thing(crate::low::Ground);",
            "src/high/two.rs": "pub use super::one::*; pub struct Other(Thing);",
        },
        [FILES],
    ),
    (
        "through a name of the crate for itself",
        {
            "src/lib.rs": "extern crate alloc; mod low; pub mod high;\nextern crate self as me;",
            "src/low.rs": "pub struct Ground; fn f(_: ::me::high::Thing) {}",
        },
        ["src/lib.rs:2: `extern crate self`"],
    ),
    (
        "none in files and inline modules that an inner attribute makes tests",
        {
            "src/low.rs": """pub struct Ground; mod model;
            pub(crate) mod own { #![allow(unused)] #![cfg(test)] use crate::high::Thing; }""",
            "src/low/model.rs": """//! A model.
            #![allow(unused)]
            #![cfg(test)]
            use crate::high::Thing;""",
        },
        [],
    ),
    (
        "in a module that has the name of a test within an inline module",
        {
            "src/low.rs": "pub struct Ground; mod own { #[cfg(test)] mod model; } mod model;",
            "src/low/model.rs": "use crate::high::Thing;",
            "src/low/own/model.rs": "use crate::high::Other;",
        },
        [MODULES, "src/low/model.rs:1: `use crate::high::Thing`: `low` must not"],
    ),
]

# Code that names `Other` is compiled for tests only. Code that names `Thing` is always compiled.
MIXED = [
    "mod own { #![cfg(test)] type A = Other; }\ntype B = Thing;",
    "mod own { fn f() {} mod deep { #![cfg(test)] type A = Other; } }\ntype B = Thing;",
    "#[cfg(all(unix, any(unix, test, windows)))]\ntype B = Thing;",
    "#[cfg(all(unix, all(windows, test)))] type A = Other;\ntype B = Thing;",
    "fn f() { #[cfg(test)] if x { a::<Other>() }\nb::<Thing>(); }",
    "fn f() { #[cfg(test)] if x {} else if y {} else { a::<Other>() }\nif b::<Thing>() {} }",
    "fn f() { #[cfg(test)] if let A { b } = c { a::<Other>() }\n*b::<Thing>() = 1; }",
    "fn f() { #[cfg(test)] for A { b } in c { a::<Other>() }\n&b::<Thing>(); }",
    "fn f() { #[cfg(test)] match x { _ => a::<Other>() }.b::<Other>();\nb::<Thing>(); }",
    "fn f() { #[cfg(test)] 'a: loop { a::<Other>() }\n-b::<Thing>(); }",
    "fn f() { #[cfg(test)] { a::<Other>() }\nb::<Thing>(); }",
    "fn f() { #[cfg(test)] const { a::<Other>() }\nb::<Thing>(); }",
    "fn f() { #[cfg(test)] a! { Other }\n*b::<Thing>() = 1; }",
    "fn f() { #[cfg(test)] a = A { b: Other {} } == c::<Other>();\nb::<Thing>(); }",
    "fn f() { match x { #[cfg(test)] A => { a::<Other>() }\nB => b::<Thing>(), } }",
    "fn f() { match x { #[cfg(test)] A => { a::<Other>() }\n| Thing::B => {} } }",
    "fn f() { match x { #[cfg(test)] A => { a::<Other>() },\nB => b::<Thing>(), } }",
    "fn f() { match x { #[cfg(test)] A {} | B {} if c => a::<Other>(),\nB => b::<Thing>(), } }",
    "struct A { #[cfg(test)] a: B<{ Other::C }>,\nb: Thing }",
    "const A: B = B { #[cfg(test)] a: C {} + Other {},\nb: Thing {} };",
    "#[cfg(test)] const unsafe fn f() { a::<Other>() }\nfn g() { b::<Thing>(); }",
    "#[cfg(test)] const async fn f() { a::<Other>() }\nfn g() { b::<Thing>(); }",
    "#[cfg(test)] pub const extern \"C\" fn f() { a::<Other>() }\nfn g() { b::<Thing>(); }",
]
PLANTED += [
    (
        f"code around a test: {code}",
        {"src/low.rs": "pub struct Ground; " + re.sub("Other|Thing", r"crate::high::\g<0>", code)},
        [FILES, MODULES, "src/low.rs:2: `crate::high::Thing"],
    )
    for code in MIXED
]
