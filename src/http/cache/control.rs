//! The directives of `cache-control`, `expires` and `vary`, as far as they forbid or shorten.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, header};

/// The directives of a response about keeping it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Directives {
    /// No other caller may get the response.
    pub(super) is_for_one_caller: bool,
    /// The response must not be stored. If it is a failure, the callers that wait for it share it.
    pub(super) must_not_be_stored: bool,
    /// The response may be given to the callers that wait for it, and must not be kept.
    pub(super) must_be_asked: bool,
    /// The response must not be given when it is no longer fresh.
    pub(super) must_not_be_stale: bool,
    /// The longest time for which it is fresh.
    pub(super) max_age: Option<Duration>,
}

/// Reads the directives of a response.
///
/// It is stricter than RFC 9111 where this costs only a call. What cannot be read forbids keeping.
/// A directive for some of the headers counts for the whole response. The shortest time counts.
pub(super) fn directives(headers: &HeaderMap) -> Directives {
    let mut found = Directives::default();
    let lines = headers.get_all(header::CACHE_CONTROL);
    for line in lines {
        let Ok(line) = line.to_str() else {
            found.is_for_one_caller = true;
            continue;
        };
        for directive in split_unquoted(line) {
            found.add(directive);
        }
    }
    if found.max_age.is_none() {
        found.max_age = expires(headers);
    }
    // RFC 9111, section 4.2: it has been fresh for some time already.
    found.max_age = found.max_age.map(|most| most.saturating_sub(age(headers)));
    found
}

impl Directives {
    fn add(&mut self, directive: &str) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let name = name.trim();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("private") {
            self.is_for_one_caller = true;
        } else if is("no-store") {
            self.must_not_be_stored = true;
        } else if is("no-cache") {
            self.must_be_asked = true;
        } else if is("must-revalidate") || is("proxy-revalidate") {
            self.must_not_be_stale = true;
        } else if is("max-age") || is("s-maxage") {
            // RFC 9111, section 5.2.2.10: `s-maxage` has the meaning of `proxy-revalidate` too.
            self.must_not_be_stale |= is("s-maxage");
            let age = seconds(value);
            self.max_age = Some(self.max_age.map_or(age, |known| known.min(age)));
        }
    }
}

/// Returns the parts of a line between commas that are not in quotes.
fn split_unquoted(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = line.split(move |c: char| {
        let is_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            _ => {}
        }
        c == ',' && !quoted
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// Reads a number of seconds. What is no number is zero, and what is too large has no end.
fn seconds(value: &str) -> Duration {
    let digits = value.trim().trim_matches('"');
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Duration::ZERO;
    }
    Duration::from_secs(digits.parse().unwrap_or(u64::MAX))
}

/// Returns the time until `expires`, counted from `date`. What cannot be read has expired.
fn expires(headers: &HeaderMap) -> Option<Duration> {
    let date = |name| {
        let value: &http::HeaderValue = headers.get(name)?;
        Some(value.to_str().ok().and_then(|date| httpdate::parse_http_date(date).ok()))
    };
    let expires = date(header::EXPIRES)?;
    let now = date(header::DATE).flatten().unwrap_or_else(SystemTime::now);
    Some(expires.and_then(|at| at.duration_since(now).ok()).unwrap_or_default())
}

/// Returns the age that a response had when it arrived.
pub(super) fn age(headers: &HeaderMap) -> Duration {
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok());
    // RFC 9111, section 5.1: the first member of a list counts.
    let age = age.and_then(|age| age.split(',').next());
    age.map_or(Duration::ZERO, seconds)
}

/// Returns `true` if a response depends on a header of the request that is not in `known`.
pub(super) fn varies_by_another(headers: &HeaderMap, known: &[HeaderName]) -> bool {
    headers.get_all(header::VARY).iter().any(|line| {
        line.to_str().map_or(true, |line| {
            let names = line.split(',').map(str::trim).filter(|name| !name.is_empty());
            let is_known =
                |name: &str| known.iter().any(|it| it.as_str().eq_ignore_ascii_case(name));
            names.into_iter().any(|name| !is_known(name))
        })
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let value = |value: &str| HeaderValue::from_str(value).unwrap();
        lines.iter().map(|(name, line)| (name.clone(), value(line))).collect()
    }

    fn control(line: &str) -> Directives {
        directives(&of(&[(header::CACHE_CONTROL, line)]))
    }

    #[test]
    fn a_response_can_only_forbid_or_shorten() {
        assert_eq!(control("public, immutable, stale-if-error=9"), Directives::default());
        for line in ["private", "Private=\"x-a, no-cache\"", "max-age=9, PRIVATE"] {
            assert!(control(line).is_for_one_caller, "{line}");
        }
        for line in ["no-store", "max-age=9, NO-STORE"] {
            assert!(control(line).must_not_be_stored, "{line}");
        }
        assert!(control("no-cache=\"set-cookie\"").must_be_asked);
        for line in ["max-age=5, must-revalidate", "Proxy-Revalidate", "s-maxage=5"] {
            assert!(control(line).must_not_be_stale, "{line}");
        }
        assert!(!control("max-age=5").must_not_be_stale);
        let age = |line| control(line).max_age.map(|age| age.as_secs());
        assert_eq!(age("max-age=60"), Some(60));
        assert_eq!(age("max-age=60, s-maxage=\"5\", max-age=9"), Some(5));
        assert_eq!([age("max-age=-1"), age("max-age=x"), age("max-age")], [Some(0); 3]);
        assert_eq!(age("max-age=99999999999999999999999"), Some(u64::MAX));
        assert_eq!(age("x=\"max-age=9\""), None);
        assert_eq!(age("x=\"a\\\", max-age=9\""), None);
    }

    #[test]
    fn what_has_expired_is_not_fresh() {
        let date = (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        let expires = |at| directives(&of(&[date.clone(), (header::EXPIRES, at)])).max_age;
        assert_eq!(expires("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        for at in ["Sun, 06 Nov 1994 08:48:37 GMT", "0", "never"] {
            assert_eq!(expires(at), Some(Duration::ZERO));
        }
        assert_eq!(directives(&HeaderMap::new()).max_age, None);
    }

    #[test]
    fn a_hostile_vary_is_not_trusted() {
        let known = [header::ACCEPT, header::ACCEPT_ENCODING];
        let varies = |line| varies_by_another(&of(&[(header::VARY, line)]), &known);
        assert!(!varies("Accept, accept-encoding") && !varies("") && !varies(", ,"));
        for line in ["*", "accept, *", "cookie", "accept, x-user", "acc ept", "accept;q=1"] {
            assert!(varies(line), "{line}");
        }
        let mut binary = HeaderMap::new();
        binary.insert(header::VARY, HeaderValue::from_bytes(b"accept\xff").unwrap());
        assert!(varies_by_another(&binary, &known));
        let long = vec!["accept"; 5_000].join(",");
        assert!(!varies(&long) && varies(&(long.clone() + ",x")));
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in "[ -~]{0,80}", vary in "[ -~]{0,80}") {
            let headers = of(&[(header::CACHE_CONTROL, &line), (header::VARY, &vary)]);
            let found = directives(&headers);
            varies_by_another(&headers, &[header::ACCEPT]);
            // A second line can only forbid more.
            let mut more = headers.clone();
            more.append(header::CACHE_CONTROL, HeaderValue::from_static("no-store, max-age=1"));
            let stricter = directives(&more);
            prop_assert!(stricter.must_not_be_stored);
            prop_assert!(stricter.max_age <= Some(found.max_age.unwrap_or(Duration::MAX)));
        }
    }
}
