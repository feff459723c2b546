use std::{any::type_name, fmt, sync::Arc, time::Duration};

use super::{
    address::{Address, Make},
    check::{Check, DynCheck, erased},
    config::Config,
    service::Endpoints,
    shared::Shared,
    watch::watch,
};
use crate::{
    ConfigError, Outcome, classify_fn,
    error::Name,
    outcome::{ClassifyFn, DefaultClassifier},
    telemetry::{Kind, ReporterCell},
};

impl<A: Address, S: Clone + Send + 'static> Endpoints<A, S> {
    /// Creates a service that calls one of these addresses, with the default settings.
    ///
    /// `make` makes the service of each address. An address that is there twice is used once.
    ///
    /// ```
    /// use buttress::endpoints::Endpoints;
    /// use tower::service_fn;
    ///
    /// let shops = Endpoints::new(["10.0.0.1:80", "10.0.0.2:80"], |address: &&str| {
    ///     let address = address.to_string();
    ///     service_fn(move |path: &'static str| {
    ///         let url = format!("http://{address}{path}");
    ///         async move { Ok::<_, std::io::Error>(url) }
    ///     })
    /// });
    /// assert_eq!(shops.handle().states().len(), 2);
    /// ```
    pub fn new<F>(addresses: impl IntoIterator<Item = A>, make: F) -> Self
    where
        F: Fn(&A) -> S + Send + Sync + 'static,
    {
        let mut known: Vec<(A, u8)> = Vec::new();
        for address in addresses {
            if !known.iter().any(|(it, _)| *it == address) {
                known.push((address, 0));
            }
        }
        let shared = Shared::new(Config::default(), |_| None);
        Self::from_parts(shared, known, Arc::new(make), DefaultClassifier)
    }

    /// Returns a builder with the default settings.
    ///
    /// `make` creates the service of an address. It runs at the start, when an address is added,
    /// and when a service has failed to become ready. It also runs for each
    /// [check](EndpointsBuilder::check) that fails while the endpoint is out. An address that is
    /// there twice is used once, because a resolver may return it twice.
    pub fn builder<F>(addresses: impl IntoIterator<Item = A>, make: F) -> EndpointsBuilder<A, S>
    where
        F: Fn(&A) -> S + Send + Sync + 'static,
    {
        EndpointsBuilder::new(addresses, Arc::new(make))
    }
}

/// A builder for [`Endpoints`].
#[must_use = "a builder does nothing until `build`"]
pub struct EndpointsBuilder<A, S, C = DefaultClassifier> {
    config: Config,
    addresses: Vec<(A, u8)>,
    make: Make<A, S>,
    check: Option<DynCheck<S>>,
    /// The setters of checks that were called.
    check_setter: Option<&'static str>,
    classifier: C,
}

impl<A, S> EndpointsBuilder<A, S> {
    pub(super) fn new(addresses: impl IntoIterator<Item = A>, make: Make<A, S>) -> Self {
        let addresses = addresses.into_iter().map(|address| (address, 0)).collect();
        let config = Config::default();
        let classifier = DefaultClassifier;
        Self { config, addresses, make, check: None, check_setter: None, classifier }
    }
}

impl<A, S, C> EndpointsBuilder<A, S, C> {
    /// Sets the name of the endpoints in errors and events.
    ///
    /// Default: `endpoints`.
    pub fn name(mut self, name: impl Into<Name>) -> Self {
        self.config.reporter = ReporterCell::new(Some(name.into()), Kind::Endpoints);
        self
    }

    /// Adds the addresses of a priority group.
    ///
    /// Default: none. The addresses of the constructor are group 0.
    ///
    /// All calls go to the usable endpoints of the lowest group of which enough are usable, see
    /// [`panic_below`](Self::panic_below). Another group is, for example, another region. A retry
    /// goes to the next group once it has tried all endpoints of the first. An address that is in
    /// two groups is an error.
    pub fn group(mut self, group: u8, addresses: impl IntoIterator<Item = A>) -> Self {
        self.addresses.extend(addresses.into_iter().map(|address| (address, group)));
        self
    }

    /// Sets the maximum number of concurrent calls to each endpoint.
    ///
    /// Default: none.
    ///
    /// If all that get calls are at the limit, the call is rejected. It does not go to another
    /// [group](Self::group). The limit must be at least 1.
    pub fn max_concurrent(mut self, limit: u32) -> Self {
        self.config.max_concurrent = Some(limit);
        self
    }

    /// Sets the number of failures in a row after which an endpoint is ejected.
    ///
    /// Default: `5`.
    ///
    /// It must be at least 1.
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.config.consecutive_failures = failures;
        self
    }

    /// Sets the time for which an endpoint is ejected at first.
    ///
    /// Default: `30 s`.
    ///
    /// The second ejection is twice as long, the third three times, up to
    /// [`max_eject_for`](Self::max_eject_for). If an endpoint works for as long as its last
    /// ejection took, the next one is shorter by one step. Checks that pass end an ejection early.
    /// The time must be longer than zero.
    pub fn eject_for(mut self, time: Duration) -> Self {
        self.config.eject_for = time;
        self
    }

    /// Sets the longest time for which an endpoint is ejected.
    ///
    /// Default: `300 s`.
    ///
    /// It must be at least [`eject_for`](Self::eject_for).
    pub fn max_eject_for(mut self, time: Duration) -> Self {
        self.config.max_eject_for = time;
        self
    }

    /// Sets the share of the endpoints that can be ejected at the same time.
    ///
    /// Default: `0.5`, rounded down to whole endpoints.
    ///
    /// Drained endpoints do not count. The last usable endpoint is never ejected. An endpoint is
    /// ejected beyond the share if the calls then go to another [group](Self::group). The share
    /// does not limit how many are out because of their checks. It must be between 0 and 1. With 0,
    /// no endpoint is ejected.
    pub fn max_ejected(mut self, share: f64) -> Self {
        self.config.max_ejected = share;
        self
    }

    /// Sets the share of usable endpoints below which a group gets no calls.
    ///
    /// Default: `0.5`.
    ///
    /// Calls then go to the next group. If no group has enough usable endpoints, they go to all
    /// endpoints that are not drained, in all groups, usable or not. If so many are out, the checks
    /// are more likely to be wrong than the endpoints. The share must be between 0 and 1. With 0, a
    /// group is used while one of its endpoints is usable.
    pub fn panic_below(mut self, share: f64) -> Self {
        self.config.panic_below = share;
        self
    }

    /// Sets a check of each endpoint.
    ///
    /// Default: none, because checks are traffic.
    ///
    /// The first checks of several endpoints are spread over the interval, and so are hundreds of
    /// checks that are due at once. An endpoint has one check at a time. The checks are made by one
    /// task of the runtime in which `build` runs or, without one, the first call. It ends with the
    /// last clone of the service and of its handle. If its runtime ends before, the next call
    /// starts it in its own runtime. A runtime that is not driven, such as one that is between two
    /// calls of `block_on`, checks nothing.
    ///
    /// If an endpoint that is out fails another check, it is checked again with a new service. If
    /// that passes, the new service replaces the old one, which may be dead for ever.
    pub fn check(mut self, check: impl Check<S>) -> Self
    where
        S: Send + 'static,
    {
        self.check = Some(erased(check));
        self
    }

    /// Sets the time between two checks of an endpoint.
    ///
    /// Default: `10 s`.
    ///
    /// Each interval is up to 10 % longer or shorter, so that the checks of many clients spread.
    ///
    /// It must be longer than zero, and needs a [`check`](Self::check).
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.config.check_interval = interval;
        self.check_setter = Some("check_interval");
        self
    }

    /// Sets the time after which a check has failed.
    ///
    /// Default: `2 s`.
    ///
    /// It must be longer than zero and not longer than [`check_interval`](Self::check_interval),
    /// and needs a [`check`](Self::check).
    pub fn check_timeout(mut self, limit: Duration) -> Self {
        self.config.check_timeout = limit;
        self.check_setter = Some("check_timeout");
        self
    }

    /// Sets the number of failed checks in a row after which an endpoint is out.
    ///
    /// Default: `3`.
    ///
    /// It must be at least 1, and needs a [`check`](Self::check).
    pub fn out_after(mut self, checks: u32) -> Self {
        self.config.out_after = checks;
        self.check_setter = Some("out_after");
        self
    }

    /// Sets the number of passed checks in a row after which an endpoint is back.
    ///
    /// Default: `2`.
    ///
    /// It must be at least 1, and needs a [`check`](Self::check).
    pub fn back_after(mut self, checks: u32) -> Self {
        self.config.back_after = checks;
        self.check_setter = Some("back_after");
        self
    }

    /// Sets the classifier for endpoints without a stack around them.
    ///
    /// Default: none. `Ok` is a success and `Err` is a failure.
    ///
    /// In a stack, the stack's classifier decides, at the end of a streaming response.
    pub fn classify<D>(self, classifier: D) -> EndpointsBuilder<A, S, D> {
        let Self { config, addresses, make, check, check_setter, .. } = self;
        EndpointsBuilder { config, addresses, make, check, check_setter, classifier }
    }

    /// Sets a closure as the classifier.
    ///
    /// Default: none, as for [`classify`](Self::classify).
    pub fn classify_fn<F, Res, E>(self, f: F) -> EndpointsBuilder<A, S, ClassifyFn<F>>
    where
        F: Fn(Result<&Res, &E>) -> Outcome,
    {
        self.classify(classify_fn(f))
    }

    /// Checks the settings and builds the service.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if a setting is out of range, if a setting of checks has no check,
    /// or for `group` if an address is in two groups.
    pub fn build(self) -> Result<Endpoints<A, S, C>, ConfigError>
    where
        A: Address,
        S: Clone + Send + 'static,
    {
        let Self { config, addresses, make, check, check_setter, classifier } = self;
        let config = config.checked()?;
        if let (Some(setter), None) = (check_setter, &check) {
            return Err(ConfigError::new(setter, "set", "it needs a `check`"));
        }
        let mut known: Vec<(A, u8)> = Vec::with_capacity(addresses.len());
        for (address, group) in addresses {
            match known.iter().find(|(it, _)| *it == address) {
                None => known.push((address, group)),
                Some((_, first)) if *first == group => {}
                Some(_) => {
                    let value = format!("{group}: {address}");
                    let rule = "an address can be in one group only";
                    return Err(ConfigError::new("group", value, rule));
                }
            }
        }
        let shared = Shared::new(config, |set| check.map(|check| watch(set, check)));
        Ok(Endpoints::from_parts(shared, known, make, classifier))
    }
}

impl<A, S, C> fmt::Debug for EndpointsBuilder<A, S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointsBuilder")
            .field("config", &self.config)
            .field("addresses", &self.addresses.len())
            .field("check", &self.check.is_some())
            .field("classifier", &format_args!("{}", type_name::<C>()))
            .finish_non_exhaustive()
    }
}
