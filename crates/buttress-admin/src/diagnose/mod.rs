//! The sentence that says whose fault it is.

mod breaker;
mod chaos;
mod choice;
mod dependency;
mod diagnosis;
mod endpoints;
mod facts;
mod limits;

pub use self::{
    choice::diagnose,
    diagnosis::{Diagnosis, Severity, Whose},
};
