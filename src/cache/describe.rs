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
        let mut text = format!("keeps responses for up to {:?}", times.ttl);
        if times.ttl.is_zero() {
            text = "asks for each call, and shares calls".to_owned();
        }
        if !times.while_revalidate.is_zero() {
            text += &format!(", renews them for {:?} more", times.while_revalidate);
        }
        if !times.if_error.is_zero() {
            text += &format!(", gives them for {:?} more if a call fails", times.if_error);
        }
        facts.line("cache", text);
        match times.patience {
            Some(patience) => facts.put(CACHE, patience),
            None => facts.note(CACHE),
        }
    }
}
