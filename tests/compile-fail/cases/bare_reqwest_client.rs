//! A client of reqwest, which takes requests of its own type.

use buttress::{Stack, http::ReplaySafe};

fn main() {
    let _ = Stack::standard(ReplaySafe::new()).http().service(reqwest::Client::new());
}
