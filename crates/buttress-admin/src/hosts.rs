//! The names under which the service may be reached.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{header::HOST, request::Parts, uri::Authority};

/// The names that a request may have in `Host`.
///
/// A page of an attacker can let its own name resolve to this server. The browser then takes the
/// server for a part of that page. It still sends the name of the page. `localhost` and literal
/// addresses cannot be taken over in this way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    others: Vec<String>,
}

impl Hosts {
    /// Adds a name. It panics if it is not one.
    pub(crate) fn add(&mut self, name: &str) {
        let host = name.parse::<Authority>().ok().as_ref().and_then(host_of);
        // A pattern would never match.
        let is_name = |host: &String| !host.is_empty() && !host.contains('*');
        let Some(host) = host.filter(is_name) else { panic!("{name:?} is not the name of a host") };
        self.others.push(host);
    }

    /// Returns `true` if each name in the request is allowed, and there is one.
    pub(crate) fn allow(&self, request: &Parts) -> bool {
        // HTTP/2 has the name in the URI. A proxy may send both.
        let in_uri = request.uri.authority().cloned();
        let mut names = 0;
        let in_headers = request
            .headers
            .get_all(HOST)
            .iter()
            .map(|value| value.to_str().ok()?.parse::<Authority>().ok());
        for authority in in_uri.into_iter().map(Some).chain(in_headers) {
            match authority {
                Some(authority) if self.allows(&authority) => names += 1,
                _ => return false,
            }
        }
        names > 0
    }

    fn allows(&self, authority: &Authority) -> bool {
        let Some(host) = host_of(authority) else { return false };
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        host == "localhost"
            || host.parse::<Ipv4Addr>().is_ok()
            || v6.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
            || self.others.contains(&host)
    }
}

/// Returns the name in lower case without the dot that may end it.
///
/// Returns `None` for an authority with a user, or with an invalid port.
fn host_of(authority: &Authority) -> Option<String> {
    let rest = authority.as_str().strip_prefix(authority.host())?;
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if !(rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)) {
        return None;
    }
    let host = authority.host().to_ascii_lowercase();
    Some(host.strip_suffix('.').map(str::to_owned).unwrap_or(host))
}
