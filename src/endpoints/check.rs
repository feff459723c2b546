//! Active checks of endpoints.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

/// A check of the health of an endpoint.
///
/// [`HttpCheck`](crate::http::HttpCheck) is one. [`check_fn`] makes one of a closure. Implement the
/// trait for a check with settings of its own:
///
/// ```
/// use buttress::endpoints::Check;
/// use tower::{Service, ServiceExt};
///
/// /// Sends a request, and expects a response.
/// struct Ping(&'static str);
///
/// impl<S> Check<S> for Ping
/// where
///     S: Service<String, Future: Send> + Send + 'static,
/// {
///     async fn check(&self, service: S) -> bool {
///         service.oneshot(self.0.to_owned()).await.is_ok()
///     }
/// }
/// # let _ = Ping("ping");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot check an endpoint with the service `{S}`",
    note = "a closure is made a check by `check_fn(|service| async move {{ true }})`"
)]
pub trait Check<S>: Send + Sync + 'static {
    /// Checks an endpoint with a clone of its service. Returns `true` if the endpoint is well.
    ///
    /// A check that panics, or that takes too long, has failed.
    fn check(&self, service: S) -> impl Future<Output = bool> + Send;
}

/// A check that calls a closure, created by [`check_fn`].
#[derive(Clone, Copy)]
pub struct CheckFn<F> {
    f: F,
}

/// Creates a check from a closure.
///
/// The closure gets a clone of the endpoint's service, which is not ready yet.
///
/// ```
/// use buttress::endpoints::check_fn;
/// use tower::{ServiceExt, util::BoxCloneService};
///
/// let ping = check_fn(|service: BoxCloneService<String, u16, std::io::Error>| async {
///     matches!(service.oneshot("ping".to_owned()).await, Ok(200))
/// });
/// # let _ = ping;
/// ```
pub fn check_fn<F, S, Fut>(f: F) -> CheckFn<F>
where
    F: Fn(S) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = bool> + Send,
{
    CheckFn { f }
}

impl<F, S, Fut> Check<S> for CheckFn<F>
where
    F: Fn(S) -> Fut + Send + Sync + 'static,
    S: Send,
    Fut: Future<Output = bool> + Send,
{
    async fn check(&self, service: S) -> bool {
        (self.f)(service).await
    }
}

impl<F> fmt::Debug for CheckFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckFn({})", std::any::type_name::<F>())
    }
}

/// A check of any type, with the endpoint's own clone of its service.
pub(super) type DynCheck<S> =
    Arc<dyn Fn(S) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

pub(super) fn erased<S: Send + 'static>(check: impl Check<S>) -> DynCheck<S> {
    let check = Arc::new(check);
    Arc::new(move |service| {
        let check = Arc::clone(&check);
        Box::pin(async move { check.check(service).await })
    })
}
