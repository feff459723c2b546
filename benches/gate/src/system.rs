//! Replacements for functions of the system, so that each run executes the same instructions.
//!
//! The functions below have the names of libc's. The linker finds them first, so the standard
//! library and tokio call them too. The clock advances only when it is read, and each read is
//! counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ffi::{c_int, c_uint, c_void},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The time between two reads of the clock, in nanoseconds.
///
/// It is so short that no timer fires, and no window rotates, during the counted calls.
const STEP: u64 = 100;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static CLOCK_READS: AtomicU64 = AtomicU64::new(0);

/// Returns the number of allocations and reallocations so far.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Relaxed)
}

/// Returns the number of clock reads so far.
pub fn clock_reads() -> u64 {
    CLOCK_READS.load(Relaxed)
}

/// Increments a counter. The program has one thread, so the increment need not be atomic.
fn count(counter: &AtomicU64) -> u64 {
    let value = counter.load(Relaxed) + 1;
    counter.store(value, Relaxed);
    value
}

/// A `struct timespec` of 64-bit Linux.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn clock_gettime(_clock: c_int, time: *mut Timespec) -> c_int {
    let nanoseconds = count(&CLOCK_READS) * STEP;
    let now = Timespec {
        seconds: 1_000 + (nanoseconds / 1_000_000_000) as i64,
        nanoseconds: (nanoseconds % 1_000_000_000) as i64,
    };
    // SAFETY: callers pass a valid pointer, as libc's function requires.
    unsafe { time.write(now) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(bytes: *mut c_void, length: usize, _flags: c_uint) -> isize {
    // SAFETY: callers pass a buffer of `length` bytes, as libc's function requires.
    unsafe { bytes.cast::<u8>().write_bytes(0x5a, length) };
    length as isize
}

#[unsafe(no_mangle)]
extern "C" fn getpid() -> c_int {
    1
}

struct Counting;

#[global_allocator]
static GLOBAL: Counting = Counting;

// SAFETY: every call is passed on to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&ALLOCATIONS);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(&ALLOCATIONS);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(&ALLOCATIONS);
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}
