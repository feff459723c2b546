//! A scripted server, and a call to it through a stack.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::{
    Error, Stack,
    http::{
        HttpClientLayer, ReplayBody, ReplayBodyLayer, ReplaySafe, ResponseBody,
        grpc::FirstFrameLayer,
        wire::{self, GrpcCode},
    },
    retry::{Backoff, Jitter, RetryBuilder, RetryLayer},
};
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::Bytes;
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};

use super::{INITIAL, ms};

pub(crate) const METHOD: &str = "/orders.Orders/Place";

/// The action of the server for one request.
///
/// A response has lines of `grpc-retry-pushback-ms`.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// Responds with trailers only.
    Status(GrpcCode, &'static [&'static str]),
    /// Responds with headers, and after them with trailers.
    Committed(GrpcCode, &'static [&'static str]),
    /// Responds with headers, a message and trailers.
    Message(GrpcCode),
    /// Does not respond.
    Hangs,
    /// Fails in the client, which cannot reach the server.
    Fails(ErrorKind),
}

/// A request body, with its number of bytes.
#[derive(Clone, Copy)]
pub(crate) enum Upload {
    Known(usize),
    /// A body whose length is not known in advance.
    Streamed(usize),
}

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) answers: &'static [Answer],
    /// The maximum number of attempts, which includes the first, as A6 counts.
    pub(crate) max_attempts: u32,
    /// The method is declared safe to replay.
    pub(crate) safe: bool,
    /// The method for which headers do not commit the call.
    pub(crate) first_frame: Option<&'static str>,
    pub(crate) upload: Upload,
    /// The deadline of the call, in milliseconds.
    pub(crate) total: Option<u64>,
    /// The time of each request in milliseconds, and its `grpc-previous-rpc-attempts`.
    pub(crate) sent: &'static [(u64, &'static str)],
    /// The `grpc-timeout` of each request.
    pub(crate) time_left: &'static [&'static str],
    /// The time at which the call ends, in milliseconds. Default: the time of the last request.
    pub(crate) ended: Option<u64>,
    pub(crate) end: End,
    /// The number of header lines that the client could not parse.
    pub(crate) malformed: u64,
}

/// The end of a call for its caller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Code(GrpcCode),
    Rejected(&'static str),
    Failed(ErrorKind),
}

/// One request, as the server saw it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) previous: String,
    pub(crate) time_left: String,
    /// The number of received bytes of the body; `None` if the server did not read it.
    pub(crate) body: Option<usize>,
}

/// The observed result of a call.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    sent: Vec<(Duration, String)>,
    time_left: Vec<String>,
    ended: Duration,
    end: End,
    malformed: u64,
    /// The sizes of the bodies that the server read.
    bodies: Vec<usize>,
}

impl Seen {
    pub(crate) fn expected(row: &Row) -> Self {
        let unread = |answer: &&Answer| matches!(answer, Answer::Fails(_));
        let unread = row.answers.iter().take(row.sent.len()).filter(unread).count();
        let last = row.sent.last().map_or(0, |(at, _)| *at);
        let time_left = match row.total {
            None => vec![String::new(); row.sent.len()],
            Some(_) => row.time_left.iter().map(ToString::to_string).collect(),
        };
        Self {
            sent: row.sent.iter().map(|(at, previous)| (ms(*at), previous.to_string())).collect(),
            time_left,
            ended: ms(row.ended.unwrap_or(last)),
            end: row.end,
            malformed: row.malformed,
            bodies: vec![row.upload.len(); row.sent.len() - unread],
        }
    }
}

impl Upload {
    fn len(self) -> usize {
        match self {
            Self::Known(len) | Self::Streamed(len) => len,
        }
    }

    fn body(self) -> BoxBody<Bytes, Infallible> {
        let bytes = Bytes::from(vec![7; self.len()]);
        match self {
            Self::Known(_) => Full::new(bytes).boxed(),
            Self::Streamed(_) => {
                let chunks: Vec<_> = bytes.chunks(1 << 10).map(Bytes::copy_from_slice).collect();
                let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(chunk)));
                StreamBody::new(stream::iter(frames)).boxed()
            }
        }
    }
}

/// A server that responds by a script, and with `OK` after the end of the script.
#[derive(Clone)]
pub(crate) struct Scripted {
    answers: Arc<[Answer]>,
    sent: Arc<Mutex<Vec<Sent>>>,
}

type Server<R> =
    BoxCloneService<Request<ReplayBody<BoxBody<Bytes, Infallible>>>, Response<R>, io::Error>;

impl Scripted {
    pub(crate) fn new(answers: &[Answer]) -> Self {
        Self { answers: answers.into(), sent: Arc::default() }
    }

    pub(crate) fn seen(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    fn server(&self) -> Server<BoxBody<Bytes, Infallible>> {
        let scripted = self.clone();
        BoxCloneService::new(service_fn(move |request| scripted.clone().serve(request)))
    }

    async fn serve(
        self,
        request: Request<ReplayBody<BoxBody<Bytes, Infallible>>>,
    ) -> io::Result<Response<BoxBody<Bytes, Infallible>>> {
        let line = |name| {
            let mut lines = request.headers().get_all(name).iter();
            let line = lines.next().map_or("", |line| line.to_str().unwrap()).to_owned();
            assert_eq!(lines.next(), None);
            line
        };
        let (previous, time_left) = (line(wire::PREVIOUS_ATTEMPTS), line(wire::GRPC_TIMEOUT));
        let number = {
            let mut sent = self.sent.lock().unwrap();
            sent.push(Sent { at: Instant::now(), previous, time_left, body: None });
            sent.len() - 1
        };
        let answer = self.answers.get(number).copied().unwrap_or(Answer::Status(GrpcCode::Ok, &[]));
        if let Answer::Fails(kind) = answer {
            return Err(kind.into());
        }
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        self.sent.lock().unwrap()[number].body = Some(body.len());
        Ok(answer.response().await)
    }
}

impl Answer {
    async fn response(self) -> Response<BoxBody<Bytes, Infallible>> {
        let mut head = HeaderMap::new();
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        let frames = match self {
            Self::Status(code, pushback) => {
                head.extend(trailers(code, pushback));
                None
            }
            Self::Committed(code, pushback) => {
                Some(vec![Frame::trailers(trailers(code, pushback))])
            }
            Self::Message(code) => {
                let message = Frame::data(Bytes::from_static(b"\0\0\0\0\0"));
                Some(vec![message, Frame::trailers(trailers(code, &[]))])
            }
            Self::Hangs | Self::Fails(_) => std::future::pending().await,
        };
        let body = match frames {
            None => Empty::new().boxed(),
            Some(frames) => StreamBody::new(stream::iter(frames.into_iter().map(Ok))).boxed(),
        };
        let mut response = Response::new(body);
        *response.headers_mut() = head;
        response
    }
}

fn trailers(code: GrpcCode, pushback: &[&str]) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(wire::GRPC_STATUS, u16::from(code.number()).into());
    for line in pushback {
        trailers.append(wire::PUSHBACK, HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    trailers
}

/// Returns the retry of a row, without a budget.
pub(crate) fn retry(row: &Row) -> RetryBuilder<ReplaySafe> {
    let backoff = Backoff::exponential(INITIAL).jitter(Jitter::None).build().unwrap();
    let replay = if row.safe {
        ReplaySafe::new().grpc_methods_fn(|path| path == METHOD)
    } else {
        ReplaySafe::new().grpc_methods_fn(|path| path != METHOD)
    };
    RetryLayer::builder(replay).retries(row.max_attempts - 1).backoff(backoff).without_budget()
}

/// Makes the call of a row, and returns when it ends.
pub(crate) async fn send(
    row: &Row,
    scripted: &Scripted,
    retry: RetryBuilder<ReplaySafe>,
) -> Result<GrpcCode, Error<io::Error>> {
    send_counted(row, scripted, retry).await.0
}

async fn send_counted(
    row: &Row,
    scripted: &Scripted,
    retry: RetryBuilder<ReplaySafe>,
) -> (Result<GrpcCode, Error<io::Error>>, u64) {
    let server = match row.first_frame {
        Some(method) => {
            let layer = FirstFrameLayer::new(move |path: &str| path == method);
            let looked_at = layer.layer(scripted.server());
            BoxCloneService::new(looked_at.map_response(|response| response.map(BodyExt::boxed)))
        }
        None => scripted.server(),
    };
    let edge = HttpClientLayer::new();
    let stack = Stack::new().retry(retry.build().unwrap()).http_client(edge.clone());
    let client = match row.total {
        Some(total) => BoxCloneService::new(stack.total_timeout(ms(total)).service(server)),
        None => BoxCloneService::new(stack.service(server)),
    };
    let client = ServiceBuilder::new().layer(ReplayBodyLayer::new()).service(client);
    let request = Request::post(METHOD).header(CONTENT_TYPE, "application/grpc+proto");
    let result = client.oneshot(request.body(row.upload.body()).unwrap()).await;
    let code = match result {
        Ok(response) => Ok(code(response).await),
        Err(error) => Err(error),
    };
    (code, edge.malformed_headers())
}

async fn code(response: Response<ResponseBody<BoxBody<Bytes, Infallible>>>) -> GrpcCode {
    let (head, body) = response.into_parts();
    let rest = body.collect().await.unwrap();
    let in_trailers = rest.trailers().and_then(wire::grpc_status);
    wire::grpc_status(&head.headers).or(in_trailers).unwrap()
}

/// Makes the call of a row, and returns what was observed.
pub(crate) async fn run(row: &Row) -> Seen {
    let began = Instant::now();
    let scripted = Scripted::new(row.answers);
    let (result, malformed) = send_counted(row, &scripted, retry(row)).await;
    let end = match result {
        Ok(code) => End::Code(code),
        Err(Error::Rejected(rejection)) => End::Rejected(rejection.kind()),
        Err(Error::Service(error)) => End::Failed(error.kind()),
    };
    let sent = scripted.seen();
    Seen {
        time_left: sent.iter().map(|sent| sent.time_left.clone()).collect(),
        bodies: sent.iter().filter_map(|sent| sent.body).collect(),
        sent: sent.into_iter().map(|sent| (sent.at - began, sent.previous)).collect(),
        ended: began.elapsed(),
        end,
        malformed,
    }
}
