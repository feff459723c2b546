//! The benchmarks of this crate are in `benches/`. They are a package of their own, so that
//! `cargo test` does not compile what only they need.
