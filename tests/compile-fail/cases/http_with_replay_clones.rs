//! A replay policy that would send a POST again.

use buttress::{Stack, retry::ReplayClones};

fn main() {
    let _ = Stack::standard(ReplayClones).http();
}
