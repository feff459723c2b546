//! An HTTP client with a boxed error, as tower's own layers return it.

use buttress::{Stack, http::ReplaySafe};
use http::{Request, Response};
use tower::{BoxError, service_fn};

fn main() {
    let client =
        service_fn(|_: Request<String>| async { Ok::<_, BoxError>(Response::new(String::new())) });
    let _ = Stack::standard(ReplaySafe::new()).http().service(client);
}
