//! Measures the cost of the parts of a layer on this machine, for comparison with the rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::measure::{Harness, nanos_of};

pub fn print(harness: &Harness) {
    let _context = harness.runtime().enter();
    let semaphore = Arc::new(Semaphore::new(256));
    let counter = AtomicU64::new(0);
    let parts = [
        ("std Instant::now", nanos_of(|_| std::time::Instant::now())),
        ("tokio Instant::now", nanos_of(|_| tokio::time::Instant::now())),
        (
            "tokio Sleep, built and dropped",
            nanos_of(|_| drop(tokio::time::sleep(Duration::from_secs(30)))),
        ),
        ("tokio Semaphore, try_acquire and release", nanos_of(|_| drop(semaphore.try_acquire()))),
        (
            "tokio Semaphore, owned permit",
            nanos_of(|_| drop(Arc::clone(&semaphore).try_acquire_owned())),
        ),
        ("Arc, clone and drop", nanos_of(|_| drop(Arc::clone(&semaphore)))),
        (
            "atomic pair, add and subtract",
            nanos_of(|_| {
                counter.fetch_add(1, Ordering::AcqRel);
                counter.fetch_sub(1, Ordering::AcqRel)
            }),
        ),
        ("allocation and free, 128 bytes", nanos_of(|index| Box::new([index; 16]))),
    ];
    for (what, nanos) in parts {
        println!(r#"scale {{"what":"{what}","ns":{nanos:.1}}}"#);
    }
}
