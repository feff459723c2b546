use http::{Request, header::HOST};

/// Returns the host and the port of a request, as the key of a [stack](crate::Stack::by_key) or a
/// [breaker](crate::circuit_breaker::CircuitBreakerBuilder::keyed_fn) for each host.
///
/// It is the authority of the URI without user and password, or the header `Host` if the URI has no
/// authority, or empty if the request has neither. It is in lower case, and without the default
/// port if the URI has the scheme `http` or `https`.
///
/// ```
/// use buttress::{circuit_breaker::CircuitBreakerLayer, http::by_authority};
/// use http::Request;
///
/// let request = Request::get("https://Shop.example:443/orders").body(())?;
/// assert_eq!(by_authority(&request), "shop.example");
///
/// let breakers = CircuitBreakerLayer::builder().keyed_fn(by_authority::<String>).build()?;
/// # let _ = breakers;
/// # Ok::<(), buttress::BoxError>(())
/// ```
pub fn by_authority<B>(request: &Request<B>) -> String {
    let uri = request.uri();
    let host = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let authority = uri.authority().map(|authority| authority.as_str()).or_else(host);
    let authority = authority.unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let default_port = match uri.scheme_str() {
        Some("http") => ":80",
        Some("https") => ":443",
        _ => "",
    };
    let host = authority.strip_suffix(default_port).unwrap_or(authority);
    // A URI may have a colon without a port.
    host.strip_suffix(':').unwrap_or(host).to_ascii_lowercase()
}
