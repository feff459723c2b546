//! The report of a cache for [`Stack::explain`](crate::Stack::explain).

use std::time::Duration;

use super::layer::CacheLayer;
use crate::{
    describe::{Describe, Fact, Facts},
    sealed::Sealed,
};

/// Set by a cache. Its value is the time after which an older response is given instead.
pub(crate) const CACHE: Fact<Duration> = Fact::new("cache");

impl<K, V, R, C> Sealed for CacheLayer<K, V, R, C> {}

impl<K, V, R, C> Describe for CacheLayer<K, V, R, C> {
    fn describe(&self, facts: &mut Facts) {
        let times = self.times();
        let mut text = match times.ttl {
            Duration::ZERO => "asks each time, shares calls under way".to_owned(),
            ttl => format!("keeps responses for up to {ttl:?}"),
        };
        if !times.while_revalidate.is_zero() {
            text += &format!(", renews them for {:?} more", times.while_revalidate);
        }
        if !times.if_error.is_zero() {
            text += &format!(", gives older ones for {:?} if a call fails", times.if_error);
        }
        facts.line("cache", text);
        match times.patience {
            Some(patience) => facts.put(CACHE, patience),
            None => facts.note(CACHE),
        }
    }
}
