//! The program that shows pages and takes payments, as its visitors see it.

use std::{future::Future, net::SocketAddr, time::Duration};

use buttress::BoxError;

use crate::servers::{SHOPS, Servers};

/// A page that was shown.
pub(crate) struct Page {
    /// The age of its rates, if they are old ones.
    pub(crate) rates_age: Option<Duration>,
    pub(crate) has_recommendations: bool,
}

/// The program that calls the servers.
pub(crate) trait Storefront: Clone + Send + Sync + 'static {
    /// Shows a page, which needs a shop, the rates and the recommendations.
    fn page(&self) -> impl Future<Output = Result<Page, BoxError>> + Send;

    /// Charges a customer.
    fn pay(&self, customer: u64) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Switches the recommendations off or on, by the hand of an operator.
    fn switch_recommendations(&self, on: bool) {
        let _ = on;
    }
}

/// The addresses of the servers.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) shops: [SocketAddr; SHOPS],
    pub(crate) rates: SocketAddr,
    pub(crate) recommendations: SocketAddr,
    pub(crate) payments: SocketAddr,
}

impl From<&Servers> for Addresses {
    fn from(servers: &Servers) -> Self {
        Self {
            shops: std::array::from_fn(|shop| servers.shops[shop].address),
            rates: servers.rates.address,
            recommendations: servers.recommendations.address,
            payments: servers.payments.address,
        }
    }
}
