//! A cache whose `Keep` makes another response than that of the service.

use buttress::{
    Stack,
    cache::CacheLayer,
    keep::{Keep, Kept},
};
use std::{convert::Infallible, io};
use tower::service_fn;

struct KeepText;

impl Keep<String> for KeepText {
    type Payload = String;
    type Response = usize;
    type Error = Infallible;

    async fn keep(&self, response: String) -> Kept<String, usize> {
        Kept::not_kept(response.len())
    }

    fn replay(&self, payload: String) -> Result<usize, Infallible> {
        Ok(payload.len())
    }
}

fn main() {
    let client = service_fn(|path: String| async { Ok::<_, io::Error>(path) });
    let cache = CacheLayer::by_fn(|path: &String| Some(path.clone())).keep(KeepText);
    let _ = Stack::new().cache(cache.build().unwrap()).service(client);
}
