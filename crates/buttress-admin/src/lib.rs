//! A live page, metrics and switches for the stacks of [buttress](mod@buttress), as one service.
//!
//! ```toml
//! [dependencies]
//! buttress = "0.1"
//! buttress-admin = "0.1"
//! ```
//!
//! ```
//! use buttress::{Stack, retry::ReplayClones, telemetry::Registry};
//! use buttress_admin::Admin;
//!
//! let registry = Registry::new();
//! let orders = Stack::standard(ReplayClones).name("orders").register(&registry);
//! let admin = Admin::new(&registry).at("/buttress");
//! # drop((orders, admin));
//! ```
//!
//! [`Admin`] is a tower service for any router. Its page has a card for each dependency, which is a
//! stack by its name. First on the card is the [diagnosis](diagnose): a sentence that says whose
//! fault it is that callers get no response, or get it late. The page reads `state.json`, which has
//! the same sentence and the numbers behind it, for scripts. Each of its `dependencies` has the
//! fields of [`Diagnosis`] and [`Snapshot`].
//!
//! ```sh
//! curl -s http://localhost:9000/buttress/state.json | jq -r '.dependencies[] | .name, .sentence'
//! ```
//!
//! # Routers
//!
//! | router | how |
//! |---|---|
//! | axum | `router.nest_service("/buttress", admin)` |
//! | axum | `router.fallback_service(admin.at("/buttress"))` |
//! | tonic | `Routes::new(service).into_axum_router().nest_service("/buttress", admin)` |
//! | hyper | `TowerToHyperService::new(admin.at("/buttress"))` |
//!
//! A service that is full rejects calls before they reach its routes. Put the admin outside of a
//! layer that limits the application, such as buttress's `HttpServerLayer`. Then it still responds
//! while the application does not.
//!
//! # Changes
//!
//! If [`allow_changes`](Admin::allow_changes) is set, `POST /control` changes a layer, as the
//! switches of the page do. It has the content type `application/json`, and a body such as:
//!
//! ```json
//! { "stack": "orders", "layer": "orders", "do": "force_open", "seconds": 300 }
//! ```
//!
//! | `do` | effect |
//! |---|---|
//! | `force_open` | opens the circuit for `seconds`, which must be there, so that nobody forgets it |
//! | `close` | closes it |
//! | `reset` | closes it as if it were new |
//! | `disable` | lets the breaker admit every call |
//! | `forget_all` | forgets all entries of a cache |
//! | `resize` | sets the maximum number of concurrent calls of a bulkhead to `limit` |
//! | `disarm` | disarms a chaos layer, which only the program arms |
//! | `switch_off` | lets calls get the fallback at once, and calls the dependency no more |
//! | `switch_on` | calls the dependency again |
//!
//! A layer outside of a stack has no `stack`. The response is `{"changed":1}`, with the number of
//! layers of this name that were changed. It is 404 if there is none, 403 if this caller may not
//! change layers, and 400 for another body. The circuits of a breaker by key cannot be changed
//! here.
//!
//! # Security
//!
//! Serve it on the internal port. Everyone who reaches it sees the names of dependencies and
//! layers, numbers of calls, causes of failures, and the names of actors. Nobody sees keys, hosts,
//! headers, bodies or the text of errors, because the registry does not have them and events are
//! kept without them.
//!
//! - Nothing can be changed unless [`allow_changes`](Admin::allow_changes) is set. Its closure gets
//!   the head of each request, and says who sent it. Each change is an event in the log with this
//!   name. The body of a request that may not change anything is not read.
//! - The `Host` of a request must be `localhost`, a literal address or one of
//!   [`hosts`](Admin::hosts). Otherwise, a page of another site could reach the service through the
//!   browser of somebody who can reach it.
//! - A change must have the content type `application/json`. No response has a header that would
//!   let another site send one. The body has at most 4 KiB, and five seconds to arrive.
//! - The page runs only its own script, and frames of other pages cannot show it. Names and reasons
//!   are put into it as text.
//!
//! # Cost
//!
//! There is no background task. A request for `state.json` reads the registry, which takes about a
//! millisecond for 2,000 series. Rates need two readings. If there is none from the last 15
//! seconds, the request waits for a second and reads twice. `curl` alone is therefore right, but
//! takes a second. Numbers of the last ten seconds are kept while somebody asks.
//!
//! The events are kept by an observer. It sees rejections, retries and changes of circuits, and
//! costs a call that goes well nothing. A rejection takes a lock for a moment.

mod admin;
mod answer;
mod body;
mod change;
mod collect;
mod diagnose;
mod events;
mod hosts;
mod page;
mod readings;
mod snapshot;
mod state;
mod words;

pub use self::{
    admin::{Admin, AdminFuture},
    body::AdminBody,
    change::Actor,
    diagnose::{Diagnosis, Severity, Whose, diagnose},
    snapshot::{
        Breaker, Bulkhead, Cache, Cause, Chaos, Ended, Endpoints, Failing, Fallback, Idempotency,
        Rejected, Retry, Snapshot, Totals,
    },
};
pub use buttress;

/// Runs the examples of the README as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
