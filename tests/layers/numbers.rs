//! The numbers of a registered stack that is idle.

use buttress::{
    telemetry::{Registry, Series},
    testing::task::Spawned,
};

/// Checks that all calls and this number of attempts have ended, and that each was counted once.
pub(crate) fn assert_numbers_add_up(registry: &Registry, attempts: u32) {
    let families = registry.gather();
    let sum = |instrument: &str, wanted: &dyn Fn(&Series) -> bool| {
        let families = families.iter().filter(|it| it.instrument.name == instrument);
        let series = families.flat_map(|family| &family.series).filter(|series| wanted(series));
        series.map(|series| series.value.as_number()).sum::<f64>()
    };
    let all = |instrument| sum(instrument, &|_| true);
    assert_eq!(all("buttress.call.active"), 0.0, "calls that have not ended");
    assert!(Spawned::new(registry.drained()).poll().is_ready());
    assert_eq!(all("buttress.attempt.duration"), f64::from(attempts), "attempts");

    let with = |instrument, attribute, value| {
        sum(instrument, &|series| series.attribute(attribute) == Some(value))
    };
    let outcome = |instrument, outcome| with(instrument, "buttress.outcome", outcome);
    let [failed, rejected] =
        ["failure", "rejected"].map(|it| outcome("buttress.call.duration", it));
    assert_eq!(all("buttress.call.errors"), failed + rejected, "causes");
    let attempts = ["failure", "rejected"].map(|it| outcome("buttress.attempt.duration", it));
    assert_eq!(all("buttress.attempt.errors"), attempts.iter().sum::<f64>(), "causes of attempts");
    // The retry has no result of a call that panics or that the total timeout ends.
    let panicked = with("buttress.call.errors", "error.type", "panic");
    let ended = with("buttress.rejections", "buttress.kind", "total_timeout");
    let results = outcome("buttress.call.duration", "success") + failed + rejected;
    let has_retry = families.iter().any(|it| it.instrument.name == "buttress.retry.calls");
    if has_retry {
        assert_eq!(all("buttress.retry.calls"), results - panicked - ended, "results");
    }
    let saved = sum("buttress.retry.calls", &|series| {
        series.attributes.iter().filter(|(_, it)| it == "true" || it == "success").count() == 2
    });
    assert!(saved <= all("buttress.attempt.resends"), "calls that were saved");
}
