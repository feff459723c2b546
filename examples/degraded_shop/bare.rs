//! The storefront with a bare HTTP client.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use buttress::BoxError;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::try_join;

use crate::{
    servers::SHOPS,
    storefront::{Addresses, Page, Storefront},
};

/// The number of times that a payment is sent if there is no response.
const SENDS: usize = 3;

/// A bare client. It asks the shops in turn, and sends a payment again if it gets no response.
#[derive(Clone)]
pub(crate) struct Bare {
    client: Client<HttpConnector, Empty<Bytes>>,
    addresses: Addresses,
    next_shop: Arc<AtomicUsize>,
}

impl Bare {
    pub(crate) fn new(addresses: Addresses) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, addresses, next_shop: Arc::default() }
    }

    async fn send(&self, request: http::request::Builder) -> Result<Bytes, BoxError> {
        let response = self.client.request(request.body(Empty::new())?).await?;
        match response.status() {
            status if status.is_success() => Ok(response.into_body().collect().await?.to_bytes()),
            status => Err(status.to_string().into()),
        }
    }
}

impl Storefront for Bare {
    async fn page(&self) -> Result<Page, BoxError> {
        let shop = self.addresses.shops[self.next_shop.fetch_add(1, Ordering::Relaxed) % SHOPS];
        try_join!(
            self.send(Request::get(format!("http://{shop}/books"))),
            self.send(Request::get(format!("http://{}/rates", self.addresses.rates))),
            self.send(Request::get(format!("http://{}/", self.addresses.recommendations))),
        )?;
        Ok(Page { rates_age: None, has_recommendations: true })
    }

    async fn pay(&self, customer: u64) -> Result<(), BoxError> {
        let uri = format!("http://{}/payments/{customer}", self.addresses.payments);
        let mut sent = self.send(Request::post(&uri)).await;
        for _ in 1..SENDS {
            if sent.is_err() {
                sent = self.send(Request::post(&uri)).await;
            }
        }
        sent.map(drop)
    }
}
