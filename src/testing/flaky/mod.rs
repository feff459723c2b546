//! A service that follows a script.

mod future;
mod handle;
mod script;
mod service;
mod state;

pub use self::{
    future::FlakyFuture,
    handle::FlakyHandle,
    script::{PanicPoint, Step, Violation},
    service::Flaky,
};
