//! A service with a boxed error, as tower's own layers return it.

use buttress::{Stack, retry::ReplayClones};
use tower::{BoxError, service_fn};

fn main() {
    let client = service_fn(|path: String| async move { Ok::<_, BoxError>(path.len()) });
    let _ = Stack::standard(ReplayClones).service(client);
}
