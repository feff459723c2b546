//! Tests that each check can fail. Every rule has a broken service, and correct services pass.

mod contract;
mod parts;
mod subject;
