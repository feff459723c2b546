//! Changes of a layer by hand.

use std::time::Duration;

use buttress::telemetry::Control;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use tokio::time::timeout;

/// The name under which a person changes a layer, for the log and the page.
///
/// Everyone who may see the page sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// Creates an actor with this name, such as that of an account.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The maximum length of the body of a change.
const MOST_BYTES: usize = 4 * 1024;
/// The maximum time to receive it.
const DEADLINE: Duration = Duration::from_secs(5);

/// The body of a request for a change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    stack: Option<String>,
    layer: String,
    #[serde(rename = "do")]
    action: Action,
    seconds: Option<u32>,
    limit: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    ForceOpen,
    Close,
    Reset,
    Disable,
    ForgetAll,
    Resize,
    Disarm,
    SwitchOff,
    SwitchOn,
}

/// A change that can be applied.
pub(crate) struct Change {
    pub(crate) stack: Option<String>,
    pub(crate) layer: String,
    pub(crate) control: Control,
}

/// A status and its reason.
pub(crate) type Problem = (StatusCode, &'static str);

/// Checks the headers of a change.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    // A page of another site cannot send this type without asking first, and is never allowed to.
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mime = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !mime.eq_ignore_ascii_case("application/json") {
        let text = "the content type of a change is application/json";
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    // Browsers that know this header send it with each request.
    let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return Err((StatusCode::FORBIDDEN, "another site must not change layers"));
    }
    Ok(())
}

/// Reads and parses a change.
pub(crate) async fn read<B>(body: B) -> Result<Change, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(body, MOST_BYTES).collect();
    let bytes = match timeout(DEADLINE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"));
        }
        Ok(Err(_)) => return Err((StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    };
    parse(&bytes).map_err(|text| (StatusCode::BAD_REQUEST, text))
}

fn parse(bytes: &Bytes) -> Result<Change, &'static str> {
    let change: Wire = serde_json::from_slice(bytes).map_err(|_| {
        "the body is not a change, such as \
         {\"stack\":\"orders\",\"layer\":\"orders\",\"do\":\"force_open\",\"seconds\":300}"
    })?;
    let Wire { stack, layer, action, seconds, limit } = change;
    let control = match (action, seconds, limit) {
        (Action::ForceOpen, Some(1..), None) => {
            Control::ForceOpen(seconds.map(|seconds| Duration::from_secs(seconds.into())))
        }
        (Action::ForceOpen, ..) => {
            return Err("force_open needs seconds, at least 1, and no limit");
        }
        (Action::Resize, None, Some(limit @ 1..)) => Control::Resize(limit),
        (Action::Resize, ..) => return Err("resize needs a limit, at least 1, and no seconds"),
        (_, Some(_), _) | (_, _, Some(_)) => {
            return Err("this change takes no seconds and no limit");
        }
        (Action::Close, ..) => Control::Close,
        (Action::Reset, ..) => Control::Reset,
        (Action::Disable, ..) => Control::Disable,
        (Action::Disarm, ..) => Control::Disarm,
        (Action::SwitchOff, ..) => Control::SwitchOff,
        (Action::SwitchOn, ..) => Control::SwitchOn,
        (Action::ForgetAll, ..) => Control::ForgetAll,
    };
    Ok(Change { stack, layer, control })
}
