//! The parts of responses that layers keep, and how to rebuild a response from them.
//!
//! The [cache](crate::cache) and the [idempotency layer](crate::idempotency) keep responses. By
//! default, these are clones. A [`Keep`] of your own keeps responses that cannot be cloned.

use std::{convert::Infallible, error::Error, future::Future};

/// Keeps responses, and rebuilds them.
///
/// `Res` is the response of the service. A cache takes a `Keep` as its
/// [`keep`](crate::cache::CacheBuilder::keep). For the idempotency layer,
/// [`Record`](crate::idempotency::Record) adds what a record needs.
///
/// A cache of streams, which can be read only once:
///
/// ```
/// use buttress::{
///     Error,
///     cache::CacheLayer,
///     keep::{Keep, Kept},
/// };
/// use futures::{
///     StreamExt,
///     stream::{BoxStream, iter},
/// };
/// use std::{convert::Infallible, io, sync::Arc};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// type Lines = BoxStream<'static, String>;
///
/// struct KeepLines;
///
/// impl Keep<Lines> for KeepLines {
///     type Payload = Arc<[String]>;
///     type Response = Lines;
///     type Error = Infallible;
///
///     async fn keep(&self, mut lines: Lines) -> Kept<Arc<[String]>, Lines> {
///         let read: Vec<_> = lines.by_ref().take(1_000).collect().await;
///         if read.len() == 1_000 {
///             // It is too long to be kept, and goes on for its caller.
///             return Kept::not_kept(iter(read).chain(lines).boxed());
///         }
///         let bytes = read.iter().map(String::len).sum();
///         Kept::new(iter(read.clone()).boxed(), read.into(), bytes)
///     }
///
///     fn replay(&self, kept: Arc<[String]>) -> Result<Lines, Infallible> {
///         Ok(iter(0..kept.len()).map(move |at| kept[at].clone()).boxed())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cache = CacheLayer::by_fn(|id: &u64| Some(*id)).keep(KeepLines).build()?;
/// let handle = cache.handle();
/// let mut reports = ServiceBuilder::new()
///     .layer(cache)
///     .map_err(Error::Service)
///     .service(service_fn(|id: u64| async move {
///         Ok::<Lines, io::Error>(iter([format!("report {id}"), "all is well".into()]).boxed())
///     }));
///
/// for _ in 0..2 {
///     let report = reports.ready().await?.call(7).await?;
///     assert_eq!(report.collect::<Vec<_>>().await, ["report 7", "all is well"]);
/// }
/// assert_eq!((handle.counts().misses, handle.counts().hits), (1, 1));
/// # Ok(())
/// # }
/// ```
pub trait Keep<Res> {
    /// The kept part of a response.
    ///
    /// A cache needs it to be `Clone + Send + Sync + 'static`. An [`Arc`](std::sync::Arc) makes the
    /// clones cheap.
    type Payload;
    /// The response that the layer returns.
    type Response;
    /// The error of a payload from which no response can be rebuilt.
    ///
    /// It is [`Infallible`] if a payload never leaves the memory of the process.
    type Error: Error;

    /// Returns the part of a response to keep, and the response for the caller.
    ///
    /// The caller gets its response when the future completes. A future that reads a body must
    /// limit the bytes and the time itself.
    fn keep(
        &self,
        response: Res,
    ) -> impl Future<Output = Kept<Self::Payload, Self::Response>> + Send;

    /// Rebuilds a response from its kept part.
    ///
    /// # Errors
    ///
    /// Returns an error if the payload is invalid, such as one of a newer version of the program.
    fn replay(&self, payload: Self::Payload) -> Result<Self::Response, Self::Error>;
}

/// A response for its caller, and the part of it that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept<P, R> {
    /// The response that the caller gets.
    pub response: R,
    /// The part that is kept.
    pub part: KeptPart<P>,
}

/// The part of a response that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptPart<P> {
    /// The response can be rebuilt from a payload.
    Payload {
        /// The payload.
        payload: P,
        /// The size of the payload, in bytes.
        bytes: usize,
    },
    /// The response is not kept. An example is a body that is too long.
    NotKept,
    /// The response broke off. Its content is not known in full.
    BrokenOff,
}

impl<P, R> Kept<P, R> {
    /// Creates a response that can be rebuilt from a payload of this size.
    pub fn new(response: R, payload: P, bytes: usize) -> Self {
        Self { response, part: KeptPart::Payload { payload, bytes } }
    }

    /// Creates a response that is not kept.
    pub fn not_kept(response: R) -> Self {
        Self { response, part: KeptPart::NotKept }
    }

    /// Creates a response that broke off.
    pub fn broken_off(response: R) -> Self {
        Self { response, part: KeptPart::BrokenOff }
    }
}

/// A [`Keep`] for responses that are `Clone`.
///
/// The size of a response is its `size_of`, without its data on the heap.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepClones;

impl<Res: Clone + Send> Keep<Res> for KeepClones {
    type Payload = Res;
    type Response = Res;
    type Error = Infallible;

    #[inline]
    async fn keep(&self, response: Res) -> Kept<Res, Res> {
        Kept::new(response.clone(), response, size_of::<Res>())
    }

    #[inline]
    fn replay(&self, payload: Res) -> Result<Res, Infallible> {
        Ok(payload)
    }
}
