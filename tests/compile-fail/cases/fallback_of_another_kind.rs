//! A value in the slot of the fallback, without its layer.

use buttress::Stack;

fn main() {
    let _ = Stack::new().fallback("none");
}
