//! What a newcomer reads when a stack does not compile. It must say what to do.
//!
//! The texts are rustc's and change with it: after an update, run this with `TRYBUILD=overwrite` and read them.

#[test]
fn what_does_not_compile_says_what_to_do() {
    trybuild::TestCases::new().compile_fail("cases/*.rs");
}
