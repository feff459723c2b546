//! `http` before `ReplayClones`, and a retry that may be absent.

use buttress::{
    Stack,
    retry::{ReplayClones, RetryLayer},
};

fn main() {
    let _ = Stack::new().http().retry(Some(RetryLayer::new(ReplayClones)));
}
