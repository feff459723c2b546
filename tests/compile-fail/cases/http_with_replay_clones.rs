//! A replay policy that would replay a POST.

use buttress::{Stack, retry::ReplayClones};

fn main() {
    let _ = Stack::standard(ReplayClones).http();
}
