use buttress::{Stack, http::ReplaySafe};
use http::Request;
use tower::service_fn;

fn main() {
    let client = service_fn(|_: Request<String>| async { Ok::<_, std::io::Error>("no response") });
    let _ = Stack::standard(ReplaySafe::new()).http().service(client);
}
