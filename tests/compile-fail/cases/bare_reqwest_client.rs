//! reqwest's client is a service of requests of its own.

use buttress::{Stack, http::ReplaySafe};

fn main() {
    let _ = Stack::standard(ReplaySafe::new()).http().service(reqwest::Client::new());
}
