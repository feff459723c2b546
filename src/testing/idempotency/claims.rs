//! Who is granted a claim, and what all others are told.

use super::{Fixture, bench::*};

pub(super) async fn an_absent_record_is_claimed<F: Fixture>(bench: &Bench<'_, F>) -> Checked {
    bench.granted(&new_claim()).await.map(drop)
}
