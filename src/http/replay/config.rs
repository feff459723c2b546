/// The limits of what is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) max_request: usize,
    pub(super) max_total: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_request: 64 << 10, max_total: 16 << 20 }
    }
}
