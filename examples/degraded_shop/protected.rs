//! The storefront with the layers of this crate.

use std::{net::SocketAddr, time::Duration};

use buttress::{
    BoxError, ConfigError, Error, Stack,
    cache::CacheLayer,
    circuit_breaker::CircuitBreakerLayer,
    endpoints::Endpoints,
    fallback::{FallbackHandle, FallbackLayer},
    http::{Degraded, GivenKey, HttpCheck, ResponseBody, SetIdempotencyKeyLayer},
    idempotency::Key,
};
use bytes::Bytes;
use http::{Request, Response, Uri, uri::PathAndQuery};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::TokioExecutor,
};
use tokio::try_join;
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};

use crate::{
    script::Phase,
    servers::HEALTH,
    storefront::{Addresses, Page, Storefront},
    traffic::Run,
};

type Ask = Request<Empty<Bytes>>;
type Called = BoxCloneSyncService<Ask, Response<ResponseBody<Incoming>>, Error<legacy::Error>>;

/// The limit of one attempt, and of a whole call. A busy machine must not exceed them.
const ATTEMPT: Duration = Duration::from_millis(250);
const TOTAL: Duration = Duration::from_millis(1_000);

/// The time between two checks of a shop.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// The number of checks within which a shop that is back must get a request: the two that it must
/// pass, and as many until its turn.
const BACK_WITHIN: u64 = 4;

/// A stack for each server, in front of the same client.
///
/// The times are short because the whole run takes only seconds. In a real program, leave out all
/// lines that set a time, except those of the cache.
#[derive(Clone)]
pub(crate) struct Protected {
    shops: Called,
    rates: Called,
    recommendations: Called,
    payments: Called,
    feature: FallbackHandle,
    addresses: Addresses,
}

impl Protected {
    pub(crate) fn new(addresses: Addresses) -> Result<Self, BoxError> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let stack = || -> Result<_, ConfigError> {
            let stack = Stack::standard_http().total_timeout(TOTAL).attempt_timeout(ATTEMPT);
            Ok(stack.circuit_breaker(breaker()?))
        };

        // Any of the shops. A retry goes to another one.
        let any = client.clone();
        let make = move |shop: &SocketAddr| {
            let shop = *shop;
            any.clone().map_request(move |request| to(shop, request))
        };
        let shops = Endpoints::builder(addresses.shops, make)
            .name("shops")
            .check(HttpCheck::get(&format!("http://shop{HEALTH}"))?)
            .check_interval(CHECK_INTERVAL)
            .check_timeout(CHECK_INTERVAL)
            .eject_for(2 * CHECK_INTERVAL)
            .max_eject_for(2 * CHECK_INTERVAL)
            .build()?;
        let shops = stack()?.name("shops").layer(shops);

        // The last good rates, as long as there are no others.
        let cache = CacheLayer::http()
            .ttl(Duration::from_millis(200))
            .if_error(Duration::from_secs(3_600))
            .build()?;
        let rates = stack()?.name("rates").cache(cache).service(client.clone());

        // A page without recommendations is better than none.
        let none = FallbackLayer::http(Response::new(""));
        let feature = none.handle();
        let recommendations = stack()?
            .name("recommendations")
            .total_timeout(2 * ATTEMPT)
            .fallback(none)
            .service(client.clone());

        // All attempts of a payment have one key, so that it is made once.
        let payments = stack()?.name("payments").service(client);
        let payments = SetIdempotencyKeyLayer::new().layer(payments);

        Ok(Self {
            shops: BoxCloneSyncService::new(shops),
            rates: BoxCloneSyncService::new(rates),
            recommendations: BoxCloneSyncService::new(recommendations),
            payments: BoxCloneSyncService::new(payments),
            feature,
            addresses,
        })
    }
}

fn breaker() -> Result<CircuitBreakerLayer, ConfigError> {
    CircuitBreakerLayer::builder()
        .time_window(Duration::from_secs(1))
        .open_for(Duration::from_millis(200))
        .max_open_for(Duration::from_millis(200))
        .build()
}

/// Sends a request to this address, whatever its host is.
fn to(address: SocketAddr, mut request: Ask) -> Ask {
    let mut parts = request.uri().clone().into_parts();
    parts.authority = address.to_string().parse().ok();
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// Makes a call, and reads its response. Returns the mark of a degraded response.
async fn send(service: &Called, request: Ask) -> Result<Option<Degraded>, BoxError> {
    let response = service.clone().oneshot(request).await?;
    let degraded = response.extensions().get().cloned();
    match response.status() {
        status if status.is_success() => {
            response.into_body().collect().await?;
            Ok(degraded)
        }
        status => Err(status.to_string().into()),
    }
}

fn get(uri: impl AsRef<str>) -> Result<Ask, http::Error> {
    Request::get(uri.as_ref()).body(Empty::new())
}

impl Storefront for Protected {
    async fn page(&self) -> Result<Page, BoxError> {
        let Addresses { rates, recommendations, .. } = self.addresses;
        let ((), rates, recommendations) = try_join!(
            async { send(&self.shops, get("http://shop/books")?).await.map(drop) },
            async { send(&self.rates, get(format!("http://{rates}/rates"))?).await },
            async { send(&self.recommendations, get(format!("http://{recommendations}/"))?).await },
        )?;
        Ok(Page {
            rates_age: rates.and_then(|degraded| degraded.age()),
            has_recommendations: recommendations.is_none(),
        })
    }

    async fn pay(&self, customer: u64) -> Result<(), BoxError> {
        let key = GivenKey::new(Key::new(format!("customer-{customer}"))?);
        let request =
            Request::post(format!("http://{}/payments/{customer}", self.addresses.payments))
                .extension(key)
                .body(Empty::new())?;
        send(&self.payments, request).await.map(drop)
    }

    fn switch_recommendations(&self, on: bool) {
        match on {
            true => self.feature.switch_on(),
            false => self.feature.switch_off(),
        }
    }
}

/// Returns the members of a JSON object.
pub(crate) fn json(run: &Run) -> String {
    let total = run.total();
    format!(
        r#"{},"stale":{},"without_recommendations":{},"failed_after_kill":{}"#,
        run.json(),
        total.stale,
        total.without_recommendations,
        run.during(Phase::ShopKilled).failed(),
    )
}

/// Returns the first promise that was not kept.
pub(crate) fn broken_promise(run: &Run) -> Option<String> {
    for phase in Phase::ALL {
        let failed = run.during(phase).failed();
        // The page that finds out that a shop hangs may be too late.
        if failed > u64::from(phase == Phase::ShopHangs) {
            return Some(format!("{failed} pages were not shown: {}", phase.name()));
        }
    }
    let total = run.total();
    if run.calls_while_off > 0 {
        return Some(format!("{} calls of a feature that is off", run.calls_while_off));
    }
    let (hang, off) =
        (run.during(Phase::RecommendationsHang), run.during(Phase::RecommendationsOff));
    if hang.without_recommendations == 0 || off.without_recommendations != off.pages {
        return Some("pages had recommendations that hang or are off".to_owned());
    }
    if run.during(Phase::RatesDown).stale == 0 {
        return Some("no page had old rates".to_owned());
    }
    for back in run.back.map(|back| back.map(|back| back.checks)) {
        if back.is_none_or(|checks| checks > BACK_WITHIN) {
            return Some(format!("a shop was back after {back:?} checks"));
        }
    }
    if (run.charges, run.charged_twice) != (total.customers, 0) || total.receipts != total.customers
    {
        return Some(format!(
            "{} customers, {} receipts, {} charges",
            total.customers, total.receipts, run.charges
        ));
    }
    None
}
