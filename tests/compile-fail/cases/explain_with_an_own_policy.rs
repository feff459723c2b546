//! A policy of the user's own that does not describe itself.

use buttress::{Stack, retry::Replay};

struct Twice;

impl Replay<u32> for Twice {
    fn replay(&self, request: &u32) -> Option<u32> {
        Some(*request)
    }
}

fn main() {
    let _ = Stack::standard(Twice).explain();
}
