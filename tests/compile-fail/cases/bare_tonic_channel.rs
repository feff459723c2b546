//! A tonic channel, whose body can be sent only once and whose error is not a `Status`.

use buttress::{Stack, http::ReplaySafe};
use tonic::transport::Endpoint;

fn main() {
    let channel = Endpoint::from_static("http://[::1]:50051").connect_lazy();
    let _ = Stack::standard(ReplaySafe::new()).http().service(channel);
}
