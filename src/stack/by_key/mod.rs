//! A separate stack for each key, in bounded memory.

mod entry;
mod layer;
mod service;
mod shared;

pub use self::{
    layer::{KeyedStack, KeyedStackBuilder},
    service::{KeyedStackFuture, KeyedStackService},
};
