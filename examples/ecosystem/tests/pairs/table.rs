//! The table.

use std::fmt;

/// The client, around which there is a standard stack with `http()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    /// The client of hyper-util, which follows no redirects.
    Hyper,
    /// Our adapter for reqwest, which follows redirects.
    Reqwest,
}

/// The request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A POST to which our layer gives a key, so that the stack may retry it.
    Keyed,
    /// A POST without a key.
    Post,
    Get,
    /// A GET by a client with a `body_buffer`.
    Buffered,
}

/// The server, or the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Plain,
    Layered,
    Guard,
    Proxy,
    ProxyToGuard,
    GuardedProxy,
}

/// The end of the operation at the last server. A redirect is to the same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Success,
    /// A 4xx without an effect, or a 5xx after the effect, each time.
    Status(u16),
    /// At first a 503 with the extension `NotStarted`.
    NotStarted,
    /// At first a 429 with `Retry-After: 1`.
    TooMany,
    /// The first run acts, and then takes longer than the limit of an attempt.
    Hang,
    /// The connection is reset after the first effect, before the response.
    Reset,
    /// A 502 after the effect, each time. The connection of the first is reset.
    FailsReset,
    /// A 307 or 308 to the operation.
    Moved(u16),
    /// A 302 or 303 to the result, after the effect.
    SeeOther(u16),
    /// A 303 to the result, after the effect. The first request for the result is reset.
    SeeOtherReset,
    /// A response of 4 MiB.
    Large,
    /// A response of 4 MiB. The first is reset.
    LargeReset,
    /// A response that breaks off after its head.
    Broken,
    /// A request of 1.5 MiB.
    Upload,
    /// A request of 128 KiB, and a 502 after the effect.
    UploadFails,
    /// A request of 128 KiB. The first response is reset.
    UploadReset,
}

/// The result of one call, observed or expected.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) effects: u32,
    /// The requests that each server received. The server nearest to the client is the first.
    pub(crate) requests: Vec<u32>,
    pub(crate) failures: u64,
    pub(crate) retries: f64,
    pub(crate) saw: String,
}

/// One row of the table, for one client or for both.
pub(crate) struct Row {
    pub(crate) server: Server,
    pub(crate) case: Case,
    pub(crate) asked: Asked,
    pub(crate) by: &'static [By],
    effects: u32,
    requests: &'static [u32],
    failures: u64,
    retries: u32,
    saw: &'static str,
    pub(crate) why: &'static str,
}

impl Row {
    pub(crate) fn expected(&self) -> Seen {
        Seen {
            effects: self.effects,
            requests: self.requests.to_vec(),
            failures: self.failures,
            retries: self.retries.into(),
            saw: self.saw.to_owned(),
        }
    }
}

macro_rules! rows {
    ($($server:ident $case:ident $(($status:literal))? $asked:ident $by:ident
        | $effects:literal | $($requests:literal)>+ | $failures:literal | $retries:literal
        | $saw:literal | $why:expr;)*) => {
        &[$(Row {
            server: Server::$server,
            case: Case::$case $(($status))?,
            asked: Asked::$asked,
            by: rows!($by),
            effects: $effects,
            requests: &[$($requests),+],
            failures: $failures,
            retries: $retries,
            saw: $saw,
            why: $why,
        }),*]
    };
    (Hyper) => { &[By::Hyper] };
    (Reqwest) => { &[By::Reqwest] };
    (Both) => { &By::ALL };
}

const RIGHT: &str = "right";
const PROMISE: &str = "the client promises that the server honours its key; this one does not";
const UNSAFE: &str = "a POST without a key is retried only if it was provably not processed";
const OVERLOAD: &str = "an overload is a failure, but opens a breaker only for the time it names";
const RECORDED: &str = "recorded, so a retry would get it again; the guard says so";
const OWN_GUESS: &str =
    "the handler does not know the outcome, but responds; the guard records that";
const NOT_SAID: &str = "recorded: the guard is not told that nothing began (`not_started`)";
const WAITS: &str = "the second attempt gets a 409, and waits for the run";
const NOT_RECORDED: &str =
    "a response over 64 KiB is not recorded: a 409 instead of a second effect";
const UNKNOWN: &str = "cut off before it was recorded: a 409 instead of a second effect";
const OVER_LIMIT: &str = "the guard reads up to 1 MiB";
const NO_KEY: &str = "the guard requires a key";
const NOT_KEPT: &str = "a body over 64 KiB is not kept for a retry";
const HEAD_ARRIVED: &str = "the caller already has the head (no `body_buffer`)";
const CALLER_FOLLOWS: &str = "this client leaves redirects to the caller";
const PROXY_FOLLOWS: &str = "the proxy follows the redirect";
const PROXY_RETRIES: &str = "the proxy retries, and says so if that was in vain";

/// The rows of the table.
///
/// The numbers are: how often the operation acted; the requests, at a proxy before those at the
/// server behind it; the failures that the client's breaker counted; the retries that its budget
/// paid for. Then follows what the caller saw.
pub(crate) const ROWS: &[Row] = rows! {
    // A server of axum alone.
    Plain        Success       Keyed Both    | 1 | 1     | 0 | 0 | "200"           | RIGHT;
    Plain        Status(404)   Keyed Both    | 0 | 1     | 0 | 0 | "404"           | RIGHT;
    Plain        Status(422)   Keyed Both    | 0 | 1     | 0 | 0 | "422"           | RIGHT;
    Plain        Status(500)   Keyed Both    | 4 | 4     | 4 | 3 | "500"           | PROMISE;
    Plain        Status(502)   Keyed Both    | 4 | 4     | 4 | 3 | "502"           | PROMISE;
    Plain        NotStarted    Keyed Both    | 1 | 2     | 1 | 1 | "200"           | RIGHT;
    Plain        TooMany       Keyed Both    | 1 | 2     | 1 | 1 | "200"           | OVERLOAD;
    Plain        Hang          Keyed Both    | 2 | 2     | 1 | 1 | "200"           | PROMISE;
    Plain        Reset         Keyed Both    | 2 | 2     | 1 | 1 | "200"           | PROMISE;
    Plain        FailsReset    Keyed Both    | 4 | 4     | 4 | 3 | "502"           | PROMISE;
    Plain        Moved(307)    Keyed Hyper   | 0 | 1     | 0 | 0 | "307"           | CALLER_FOLLOWS;
    Plain        Moved(307)    Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Plain        Moved(308)    Keyed Hyper   | 0 | 1     | 0 | 0 | "308"           | CALLER_FOLLOWS;
    Plain        Moved(308)    Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Plain        SeeOther(302) Keyed Hyper   | 1 | 1     | 0 | 0 | "302"           | CALLER_FOLLOWS;
    Plain        SeeOther(302) Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Plain        SeeOther(303) Keyed Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Plain        SeeOther(303) Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Plain        SeeOtherReset Keyed Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Plain        SeeOtherReset Keyed Reqwest | 2 | 4     | 1 | 1 | "200"           | PROMISE;
    Plain        Large         Keyed Both    | 1 | 1     | 0 | 0 | "200, 4 MiB"    | RIGHT;
    Plain        LargeReset    Keyed Both    | 2 | 2     | 1 | 1 | "200, 4 MiB"    | PROMISE;
    Plain        Broken        Keyed Both    | 1 | 1     | 1 | 0 | "200, cut off"  | HEAD_ARRIVED;
    Plain        Upload        Keyed Both    | 1 | 1     | 0 | 0 | "200"           | RIGHT;
    Plain        UploadFails   Keyed Both    | 1 | 1     | 1 | 0 | "502"           | NOT_KEPT;
    Plain        UploadReset   Keyed Both    | 1 | 1     | 1 | 0 | "no response"   | NOT_KEPT;
    Plain        Status(502)   Post  Both    | 1 | 1     | 1 | 0 | "502"           | UNSAFE;
    Plain        NotStarted    Post  Both    | 0 | 1     | 1 | 0 | "503"           | UNSAFE;
    Plain        TooMany       Post  Both    | 0 | 1     | 1 | 0 | "429"           | UNSAFE;
    Plain        Hang          Post  Both    | 1 | 1     | 1 | 0 | "timed out"     | UNSAFE;
    Plain        Reset         Post  Both    | 1 | 1     | 1 | 0 | "no response"   | UNSAFE;
    Plain        SeeOther(303) Post  Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Plain        SeeOther(303) Post  Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Plain        SeeOtherReset Post  Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Plain        SeeOtherReset Post  Reqwest | 1 | 2     | 1 | 0 | "no response"   | UNSAFE;
    Plain        Broken        Post  Both    | 1 | 1     | 1 | 0 | "200, cut off"  | HEAD_ARRIVED;
    Plain        Status(502)   Get   Both    | 4 | 4     | 4 | 3 | "502"           | RIGHT;
    Plain        Hang          Get   Both    | 2 | 2     | 1 | 1 | "200"           | RIGHT;
    Plain        Reset         Get   Both    | 2 | 2     | 1 | 1 | "200"           | RIGHT;
    Plain        Moved(307)    Get   Hyper   | 0 | 1     | 0 | 0 | "307"           | CALLER_FOLLOWS;
    Plain        Moved(307)    Get   Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Plain        Moved(308)    Get   Hyper   | 0 | 1     | 0 | 0 | "308"           | CALLER_FOLLOWS;
    Plain        Moved(308)    Get   Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Plain        SeeOtherReset Get   Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Plain        SeeOtherReset Get   Reqwest | 2 | 4     | 1 | 1 | "200"           | RIGHT;
    Plain        Broken        Get   Both    | 1 | 1     | 1 | 0 | "200, cut off"  | HEAD_ARRIVED;
    Plain        Broken        Buffered Both | 4 | 4     | 4 | 3 | "200, cut off"  | RIGHT;
    Plain        Large         Buffered Both | 1 | 1     | 0 | 0 | "200, 4 MiB"    | RIGHT;

    // Our server layer.
    Layered      Success       Keyed Both    | 1 | 1     | 0 | 0 | "200"           | RIGHT;
    Layered      Status(404)   Keyed Both    | 0 | 1     | 0 | 0 | "404"           | RIGHT;
    Layered      Status(422)   Keyed Both    | 0 | 1     | 0 | 0 | "422"           | RIGHT;
    Layered      Status(500)   Keyed Both    | 4 | 4     | 4 | 3 | "500"           | PROMISE;
    Layered      Status(502)   Keyed Both    | 4 | 4     | 4 | 3 | "502"           | PROMISE;
    Layered      NotStarted    Keyed Both    | 1 | 2     | 1 | 1 | "200"           | RIGHT;
    Layered      TooMany       Keyed Both    | 1 | 2     | 1 | 1 | "200"           | OVERLOAD;
    Layered      Hang          Keyed Both    | 2 | 2     | 1 | 1 | "200"           | PROMISE;
    Layered      Reset         Keyed Both    | 2 | 2     | 1 | 1 | "200"           | PROMISE;
    Layered      FailsReset    Keyed Both    | 4 | 4     | 4 | 3 | "502"           | PROMISE;
    Layered      Moved(307)    Keyed Hyper   | 0 | 1     | 0 | 0 | "307"           | CALLER_FOLLOWS;
    Layered      Moved(307)    Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Layered      Moved(308)    Keyed Hyper   | 0 | 1     | 0 | 0 | "308"           | CALLER_FOLLOWS;
    Layered      Moved(308)    Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Layered      SeeOther(302) Keyed Hyper   | 1 | 1     | 0 | 0 | "302"           | CALLER_FOLLOWS;
    Layered      SeeOther(302) Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Layered      SeeOther(303) Keyed Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Layered      SeeOther(303) Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Layered      SeeOtherReset Keyed Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Layered      SeeOtherReset Keyed Reqwest | 2 | 4     | 1 | 1 | "200"           | PROMISE;
    Layered      Large         Keyed Both    | 1 | 1     | 0 | 0 | "200, 4 MiB"    | RIGHT;
    Layered      LargeReset    Keyed Both    | 2 | 2     | 1 | 1 | "200, 4 MiB"    | PROMISE;
    Layered      Broken        Keyed Both    | 1 | 1     | 1 | 0 | "200, cut off"  | HEAD_ARRIVED;
    Layered      Upload        Keyed Both    | 1 | 1     | 0 | 0 | "200"           | RIGHT;
    Layered      UploadFails   Keyed Both    | 1 | 1     | 1 | 0 | "502"           | NOT_KEPT;
    Layered      UploadReset   Keyed Both    | 1 | 1     | 1 | 0 | "no response"   | NOT_KEPT;
    Layered      Status(502)   Post  Both    | 1 | 1     | 1 | 0 | "502"           | UNSAFE;
    Layered      Hang          Post  Both    | 1 | 1     | 1 | 0 | "504"           | UNSAFE;
    Layered      Reset         Post  Both    | 1 | 1     | 1 | 0 | "no response"   | UNSAFE;
    Layered      Status(502)   Get   Both    | 4 | 4     | 4 | 3 | "502"           | RIGHT;
    Layered      Hang          Get   Both    | 2 | 2     | 1 | 1 | "200"           | RIGHT;
    Layered      Reset         Get   Both    | 2 | 2     | 1 | 1 | "200"           | RIGHT;

    // Our server layer with a guard. Each safe retry gets what was recorded.
    Guard        Success       Keyed Both    | 1 | 1     | 0 | 0 | "200"           | RIGHT;
    Guard        Status(404)   Keyed Both    | 0 | 1     | 0 | 0 | "404"           | RIGHT;
    Guard        Status(422)   Keyed Both    | 0 | 1     | 0 | 0 | "422"           | RIGHT;
    Guard        Status(500)   Keyed Both    | 1 | 1     | 1 | 0 | "500"           | RECORDED;
    Guard        Status(502)   Keyed Both    | 1 | 1     | 1 | 0 | "502"           | RECORDED;
    Guard        NotStarted    Keyed Both    | 1 | 2     | 1 | 1 | "200"           | RIGHT;
    Guard        TooMany       Keyed Both    | 0 | 1     | 1 | 0 | "429"           | NOT_SAID;
    Guard        Hang          Keyed Both    | 1 | 3     | 1 | 2 | "200, replayed" | WAITS;
    Guard        Reset         Keyed Both    | 1 | 2     | 1 | 1 | "200, replayed" | RIGHT;
    Guard        FailsReset    Keyed Both    | 1 | 2     | 1 | 1 | "502, replayed" | RECORDED;
    Guard        Moved(307)    Keyed Hyper   | 0 | 1     | 0 | 0 | "307"           | CALLER_FOLLOWS;
    Guard        Moved(307)    Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Guard        Moved(308)    Keyed Hyper   | 0 | 1     | 0 | 0 | "308"           | CALLER_FOLLOWS;
    Guard        Moved(308)    Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Guard        SeeOther(302) Keyed Hyper   | 1 | 1     | 0 | 0 | "302"           | CALLER_FOLLOWS;
    Guard        SeeOther(302) Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Guard        SeeOther(303) Keyed Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Guard        SeeOther(303) Keyed Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;
    Guard        SeeOtherReset Keyed Hyper   | 1 | 1     | 0 | 0 | "303"           | CALLER_FOLLOWS;
    Guard        SeeOtherReset Keyed Reqwest | 1 | 4     | 1 | 1 | "200"           | RIGHT;
    Guard        Large         Keyed Both    | 1 | 1     | 0 | 0 | "200, 4 MiB"    | RIGHT;
    Guard        LargeReset    Keyed Both    | 1 | 2     | 1 | 1 | "409"           | NOT_RECORDED;
    Guard        Broken        Keyed Both    | 1 | 2     | 1 | 1 | "409"           | UNKNOWN;
    Guard        Upload        Keyed Both    | 0 | 1     | 0 | 0 | "413"           | OVER_LIMIT;
    Guard        UploadFails   Keyed Both    | 1 | 1     | 1 | 0 | "502"           | RECORDED;
    Guard        UploadReset   Keyed Both    | 1 | 1     | 1 | 0 | "no response"   | NOT_KEPT;
    Guard        Success       Post  Both    | 0 | 1     | 0 | 0 | "400"           | NO_KEY;
    Guard        Status(502)   Get   Both    | 4 | 4     | 4 | 3 | "502"           | RIGHT;
    Guard        Hang          Get   Both    | 2 | 2     | 1 | 1 | "200"           | RIGHT;
    Guard        Reset         Get   Both    | 2 | 2     | 1 | 1 | "200"           | RIGHT;
    Guard        Moved(307)    Get   Hyper   | 0 | 1     | 0 | 0 | "307"           | CALLER_FOLLOWS;
    Guard        Moved(307)    Get   Reqwest | 1 | 2     | 0 | 0 | "200"           | RIGHT;

    // Our server layer. Its handler calls a plain server through our adapter for reqwest.
    Proxy        Success       Keyed Both    | 1 | 1 > 1 | 0 | 0 | "200"           | RIGHT;
    Proxy        Status(404)   Keyed Both    | 0 | 1 > 1 | 0 | 0 | "404"           | RIGHT;
    Proxy        Status(422)   Keyed Both    | 0 | 1 > 1 | 0 | 0 | "422"           | RIGHT;
    Proxy        Status(500)   Keyed Both    | 4 | 4 > 4 | 4 | 3 | "500"           | PROMISE;
    Proxy        Status(502)   Keyed Both    | 4 | 4 > 4 | 4 | 3 | "502"           | PROMISE;
    Proxy        NotStarted    Keyed Both    | 1 | 2 > 2 | 1 | 1 | "200"           | RIGHT;
    Proxy        TooMany       Keyed Both    | 1 | 2 > 2 | 1 | 1 | "200"           | OVERLOAD;
    Proxy        Hang          Keyed Both    | 2 | 2 > 2 | 1 | 1 | "200"           | PROMISE;
    Proxy        Reset         Keyed Both    | 2 | 2 > 2 | 1 | 1 | "200"           | PROMISE;
    Proxy        FailsReset    Keyed Both    | 4 | 4 > 4 | 4 | 3 | "502"           | PROMISE;
    Proxy        Moved(307)    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    Proxy        Moved(308)    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    Proxy        SeeOther(302) Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    Proxy        SeeOther(303) Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    Proxy        SeeOtherReset Keyed Both    | 2 | 2 > 4 | 1 | 1 | "200"           | PROMISE;
    Proxy        Large         Keyed Both    | 1 | 1 > 1 | 0 | 0 | "200, 4 MiB"    | RIGHT;
    Proxy        LargeReset    Keyed Both    | 2 | 2 > 2 | 1 | 1 | "200, 4 MiB"    | PROMISE;
    Proxy        Broken        Keyed Both    | 1 | 1 > 1 | 1 | 0 | "200, cut off"  | HEAD_ARRIVED;
    Proxy        Upload        Keyed Both    | 1 | 1 > 1 | 0 | 0 | "200"           | RIGHT;
    Proxy        UploadFails   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | NOT_KEPT;
    Proxy        UploadReset   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | NOT_KEPT;
    Proxy        Status(502)   Post  Both    | 1 | 1 > 1 | 1 | 0 | "502"           | UNSAFE;
    Proxy        Hang          Post  Both    | 1 | 1 > 1 | 1 | 0 | "504"           | UNSAFE;
    Proxy        Reset         Post  Both    | 1 | 1 > 1 | 1 | 0 | "502"           | UNSAFE;
    Proxy        SeeOtherReset Post  Both    | 1 | 1 > 2 | 1 | 0 | "502"           | UNSAFE;
    Proxy        Status(502)   Get   Both    | 4 | 1 > 4 | 1 | 0 | "502"           | PROXY_RETRIES;
    Proxy        TooMany       Get   Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_RETRIES;
    Proxy        Hang          Get   Both    | 2 | 2 > 2 | 1 | 1 | "200"           | RIGHT;
    Proxy        Reset         Get   Both    | 2 | 1 > 2 | 0 | 0 | "200"           | PROXY_RETRIES;
    Proxy        Moved(307)    Get   Both    | 1 | 1 > 2 | 0 | 0 | "200"           | RIGHT;
    Proxy        SeeOtherReset Get   Both    | 2 | 1 > 4 | 0 | 0 | "200"           | PROXY_RETRIES;
    Proxy        Broken        Get   Both    | 1 | 1 > 1 | 1 | 0 | "200, cut off"  | HEAD_ARRIVED;
    Proxy        Broken        Buffered Both | 4 | 4 > 4 | 4 | 3 | "200, cut off"  | RIGHT;

    // A proxy before our guard. It retries requests with a key, because the guard honours it.
    ProxyToGuard Success       Keyed Both    | 1 | 1 > 1 | 0 | 0 | "200"           | RIGHT;
    ProxyToGuard Status(404)   Keyed Both    | 0 | 1 > 1 | 0 | 0 | "404"           | RIGHT;
    ProxyToGuard Status(422)   Keyed Both    | 0 | 1 > 1 | 0 | 0 | "422"           | RIGHT;
    ProxyToGuard Status(500)   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "500"           | RECORDED;
    ProxyToGuard Status(502)   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | RECORDED;
    ProxyToGuard NotStarted    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_RETRIES;
    ProxyToGuard TooMany       Keyed Both    | 0 | 1 > 1 | 1 | 0 | "429"           | NOT_SAID;
    ProxyToGuard Hang          Keyed Both    | 1 | 3 > 3 | 1 | 2 | "200, replayed" | WAITS;
    ProxyToGuard Reset         Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200, replayed" | PROXY_RETRIES;
    ProxyToGuard FailsReset    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "502, replayed" | RECORDED;
    ProxyToGuard Moved(307)    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    ProxyToGuard Moved(308)    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    ProxyToGuard SeeOther(302) Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    ProxyToGuard SeeOther(303) Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    ProxyToGuard SeeOtherReset Keyed Both    | 1 | 1 > 4 | 0 | 0 | "200"           | PROXY_RETRIES;
    ProxyToGuard Large         Keyed Both    | 1 | 1 > 1 | 0 | 0 | "200, 4 MiB"    | RIGHT;
    ProxyToGuard LargeReset    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "409"           | NOT_RECORDED;
    ProxyToGuard Broken        Keyed Both    | 1 | 1 > 2 | 0 | 0 | "409"           | UNKNOWN;
    ProxyToGuard Upload        Keyed Both    | 0 | 1 > 1 | 0 | 0 | "413"           | OVER_LIMIT;
    ProxyToGuard UploadFails   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | RECORDED;
    ProxyToGuard UploadReset   Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200, replayed" | PROXY_RETRIES;
    ProxyToGuard Success       Post  Both    | 0 | 1 > 1 | 0 | 0 | "400"           | NO_KEY;
    ProxyToGuard Status(502)   Get   Both    | 4 | 1 > 4 | 1 | 0 | "502"           | PROXY_RETRIES;
    ProxyToGuard Hang          Get   Both    | 2 | 2 > 2 | 1 | 1 | "200"           | RIGHT;

    // A proxy with a guard of its own, before a plain server.
    GuardedProxy Success       Keyed Both    | 1 | 1 > 1 | 0 | 0 | "200"           | RIGHT;
    GuardedProxy Status(404)   Keyed Both    | 0 | 1 > 1 | 0 | 0 | "404"           | RIGHT;
    GuardedProxy Status(422)   Keyed Both    | 0 | 1 > 1 | 0 | 0 | "422"           | RIGHT;
    GuardedProxy Status(500)   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "500"           | RECORDED;
    GuardedProxy Status(502)   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | RECORDED;
    GuardedProxy NotStarted    Keyed Both    | 0 | 1 > 1 | 1 | 0 | "503"           | NOT_SAID;
    GuardedProxy TooMany       Keyed Both    | 0 | 1 > 1 | 1 | 0 | "429"           | NOT_SAID;
    GuardedProxy Hang          Keyed Both    | 1 | 3 > 1 | 1 | 2 | "504, replayed" | OWN_GUESS;
    GuardedProxy Reset         Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | OWN_GUESS;
    GuardedProxy FailsReset    Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | OWN_GUESS;
    GuardedProxy Moved(307)    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    GuardedProxy Moved(308)    Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    GuardedProxy SeeOther(302) Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    GuardedProxy SeeOther(303) Keyed Both    | 1 | 1 > 2 | 0 | 0 | "200"           | PROXY_FOLLOWS;
    GuardedProxy SeeOtherReset Keyed Both    | 1 | 1 > 2 | 1 | 0 | "502"           | OWN_GUESS;
    GuardedProxy Large         Keyed Both    | 1 | 1 > 1 | 0 | 0 | "200, 4 MiB"    | RIGHT;
    GuardedProxy LargeReset    Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | OWN_GUESS;
    GuardedProxy Broken        Keyed Both    | 1 | 2 > 1 | 1 | 1 | "409"           | UNKNOWN;
    GuardedProxy Upload        Keyed Both    | 0 | 1 > 0 | 0 | 0 | "413"           | OVER_LIMIT;
    GuardedProxy UploadFails   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | RECORDED;
    GuardedProxy UploadReset   Keyed Both    | 1 | 1 > 1 | 1 | 0 | "502"           | OWN_GUESS;
    GuardedProxy Success       Post  Both    | 0 | 1 > 0 | 0 | 0 | "400"           | NO_KEY;
    GuardedProxy Status(502)   Get   Both    | 4 | 1 > 4 | 1 | 0 | "502"           | PROXY_RETRIES;
};

impl By {
    pub(crate) const ALL: [Self; 2] = [Self::Hyper, Self::Reqwest];
}

impl Server {
    pub(crate) const ALL: [Self; 6] = [
        Self::Plain,
        Self::Layered,
        Self::Guard,
        Self::Proxy,
        Self::ProxyToGuard,
        Self::GuardedProxy,
    ];
}

impl Case {
    pub(crate) const ALL: [Self; 21] = [
        Self::Success,
        Self::Status(404),
        Self::Status(422),
        Self::Status(500),
        Self::Status(502),
        Self::NotStarted,
        Self::TooMany,
        Self::Hang,
        Self::Reset,
        Self::FailsReset,
        Self::Moved(307),
        Self::Moved(308),
        Self::SeeOther(302),
        Self::SeeOther(303),
        Self::SeeOtherReset,
        Self::Large,
        Self::LargeReset,
        Self::Broken,
        Self::Upload,
        Self::UploadFails,
        Self::UploadReset,
    ];

    /// Returns the length of the body of a POST.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::Upload => 3 << 19,
            Self::UploadFails | Self::UploadReset => 128 << 10,
            _ => 16,
        }
    }

    /// Returns whether the connection of the first request to this path is reset.
    pub(crate) fn resets(self, path: &str) -> bool {
        match self {
            Self::Reset | Self::FailsReset | Self::LargeReset | Self::UploadReset => true,
            Self::SeeOtherReset => path == "/receipt",
            _ => false,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Layered => "our server layer",
            Self::Guard => "our guard",
            Self::Proxy => "our proxy > plain",
            Self::ProxyToGuard => "our proxy > our guard",
            Self::GuardedProxy => "our guarded proxy > plain",
        })
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyed => "POST with key",
            Self::Post => "POST",
            Self::Get => "GET",
            Self::Buffered => "GET, body buffered",
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Status(status @ 500..) => write!(f, "{status} after effect"),
            Self::Status(status) => write!(f, "{status}"),
            Self::NotStarted => f.write_str("503 not started, then 200"),
            Self::TooMany => f.write_str("429 with hint, then 200"),
            Self::Hang => f.write_str("timeout after effect"),
            Self::Reset => f.write_str("reset after effect"),
            Self::FailsReset => f.write_str("502 after effect, reset"),
            Self::Moved(status) => write!(f, "{status} to the operation"),
            Self::SeeOther(status) => write!(f, "{status} after effect"),
            Self::SeeOtherReset => f.write_str("303 after effect, then reset"),
            Self::Large => f.write_str("response of 4 MiB"),
            Self::LargeReset => f.write_str("response of 4 MiB, reset"),
            Self::Broken => f.write_str("response cut off"),
            Self::Upload => f.write_str("request of 1.5 MiB"),
            Self::UploadFails => f.write_str("request of 128 KiB, 502"),
            Self::UploadReset => f.write_str("request of 128 KiB, reset"),
        }
    }
}

impl fmt::Display for Seen {
    /// Writes five cells of Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effects, requests, failures, retries, saw } = self;
        let requests: Vec<_> = requests.iter().map(u32::to_string).collect();
        let requests = requests.join(" > ");
        write!(f, "{effects} | {requests} | {failures} | {retries} | {saw}")
    }
}
