//! Metrics of layers: the catalogue, the counters, and the registry that reads them.

mod calls;
mod causes;
mod family;
mod gather;
mod histogram;
pub(crate) mod instrument;
mod meter;
#[cfg(all(test, feature = "http"))]
mod monitoring;
#[cfg(all(test, feature = "http"))]
mod page;
mod registry;
mod rows;
mod shards;
mod state;

pub(super) use self::instrument::{ATTEMPT_DURATION, CALL_DURATION};
pub use self::{
    family::{Family, Series, Value},
    histogram::{BUCKETS, HistogramSnapshot},
    instrument::{CATALOGUE, Instrument, InstrumentKind},
    registry::{Readiness, Registry, Unready},
    state::Control,
};
pub(crate) use self::{
    meter::{Identity, Meter},
    shards::ShardedCounter,
    state::{Drained, LayerState, Readings},
};
