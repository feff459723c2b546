//! The panic of a future that is polled after its end.

/// Panics because a future was polled after it had ended.
#[cold]
#[track_caller]
pub(crate) fn polled_after_end() -> ! {
    panic!("response future polled after completion")
}
