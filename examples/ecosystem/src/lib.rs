//! Tests of the guides: the examples of `docs/`, compiled with the crates that they use.

#![cfg(doctest)]

#[doc = include_str!("../../../docs/http.md")]
mod http {}

#[doc = include_str!("../../../docs/idempotency.md")]
mod idempotency {}

#[doc = include_str!("../../../docs/recipes.md")]
mod recipes {}

#[doc = include_str!("../../../docs/frameworks.md")]
mod frameworks {}

#[doc = include_str!("../../../docs/troubleshooting.md")]
mod troubleshooting {}

#[doc = include_str!("../../../docs/metrics.md")]
mod metrics {}

#[doc = include_str!("../../../docs/runbook.md")]
mod runbook {}

#[doc = include_str!("../../../docs/coming_from.md")]
mod coming_from {}
