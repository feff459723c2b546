//! A builder of a fallback that is not built yet.

use buttress::{
    Stack,
    fallback::{self, FallbackLayer},
};

fn main() {
    let builder = FallbackLayer::builder(fallback::value("none"));
    let _ = Stack::new().fallback(builder);
}
