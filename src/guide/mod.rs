//! Guides to tasks that involve several items of this crate.
//!
//! | page | content |
//! |---|---|
//! | [`http`] | Stacks around HTTP and gRPC clients, and in front of servers. |
//! | [`idempotency`] | The idempotency layer: requests that must not take effect twice. |
//! | [`recipes`] | Short answers to common tasks, each with code that compiles. |
//! | [`frameworks`] | The same for tasks with axum, reqwest, tonic and Redis. |
//! | [`troubleshooting`] | Why a call is not retried, not cached or rejected, does not fall back or hangs, why a circuit is open or an endpoint is out, and what compile errors mean. |
//! | [`metrics`] | The names, attributes and meanings of all metrics. |
//! | [`runbook`] | For each alert and each reason of a rejection: its meaning, and what to do. |
//! | [`coming_from`] | Tables of names for users of tower, tower-resilience, Polly, resilience4j and moka. |

// The examples use axum, reqwest and tonic, which are not dependencies of this package. The member
// `examples/ecosystem` includes the same pages and compiles their examples.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[cfg_attr(not(doctest), doc = include_str!($file))]
        #[cfg_attr(doctest, doc = "A page that is tested in `examples/ecosystem`.")]
        pub mod $name {}
    };
}

page!(http, "../../docs/http.md");
page!(idempotency, "../../docs/idempotency.md");
page!(recipes, "../../docs/recipes.md");
page!(frameworks, "../../docs/frameworks.md");
page!(troubleshooting, "../../docs/troubleshooting.md");
page!(metrics, "../../docs/metrics.md");
page!(runbook, "../../docs/runbook.md");
page!(coming_from, "../../docs/coming_from.md");
