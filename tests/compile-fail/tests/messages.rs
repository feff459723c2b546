//! Tests of the compiler's messages for a wrong stack, which must say what to do.
//!
//! The texts are rustc's and change with it.
//! After an update, run this with `TRYBUILD=overwrite` and read the changes.

#[test]
fn what_does_not_compile_says_what_to_do() {
    trybuild::TestCases::new().compile_fail("cases/*.rs");
}
