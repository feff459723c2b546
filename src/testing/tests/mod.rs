//! Each check must be able to fail: a service broken on purpose for every rule, and right ones that pass them all.

mod contract;
mod parts;
mod subject;
