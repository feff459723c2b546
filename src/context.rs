//! The context of a call: its deadline, its attempt, and the findings of the retries beneath it.
//!
//! While a layer calls or polls the wrapped service, these values are set for everything beneath.
//! A service reads them with [`Deadline::current`] and [`Attempt::current`]. A stack with
//! [`http`](crate::Stack) support writes them into the headers of each request. A spawned task
//! starts without them. Use [`Deadline::scope`] to pass the deadline on.
//!
//! ```
//! use buttress::{Deadline, context::Attempt};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let left = Deadline::scope(Deadline::after(Duration::from_secs(3)), async {
//!     Deadline::current().map(|deadline| deadline.remaining())
//! });
//! assert_eq!(left.await, Ok(Some(Duration::from_secs(3))));
//! assert!(Attempt::current().is_none());
//! # }
//! ```

pub use crate::call::{
    attempt::Attempt,
    deadline::{Deadline, DeadlineElapsed},
    hop::Hop,
};

/// The futures of [`Deadline`] and [`Hop`].
pub mod future {
    pub use crate::call::{
        deadline::{Detached, Scope},
        hop::Observe,
    };
}
