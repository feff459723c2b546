//! One connection that all steps share, and that is replaced when it fails.
//!
//! The client's own connection manager is not used, for two reasons:
//!
//! - It keeps a connection after a response timed out. If a server has vanished silently, it waits
//!   until TCP gives up.
//! - After a failure to connect that is not an I/O error, such as too many clients, it never tries
//!   again.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use buttress::idempotency::StoreError;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, Pipeline, RedisResult, ServerErrorKind,
    Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::TcpSettings,
};

use tokio::time::Instant;

use crate::step::Call;

#[derive(Clone)]
struct Live {
    number: u64,
    connection: MultiplexedConnection,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    made: u64,
    /// The time that requests have waited on the live connection since its last response.
    ///
    /// The time between requests does not count.
    waited: Duration,
    /// The end of the time that is counted. Requests that wait at the same time count once.
    counted: Option<Instant>,
}

/// A request on a connection. If it ends without a response, the time that it waited counts.
struct Request<'a> {
    connection: &'a Connection,
    number: u64,
    sent: Instant,
    answered: bool,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let silent = self.connection.state(|state| {
            if state.live.as_ref().is_none_or(|live| live.number != self.number) {
                return None;
            }
            let from = state.counted.map_or(self.sent, |counted| counted.max(self.sent));
            if self.answered {
                (state.waited, state.counted) = (Duration::ZERO, Some(from));
                return None;
            }
            let now = Instant::now();
            state.waited += now.saturating_duration_since(from);
            state.counted = Some(now);
            state.live.take_if(|_| state.waited > self.connection.response_timeout)
        });
        // Dropped outside the lock.
        drop(silent);
    }
}

pub(crate) struct Connection {
    client: Client,
    config: AsyncConnectionConfig,
    /// The time limit of a round trip, including a wait for another caller to connect.
    limit: Duration,
    /// The time that requests may wait on a connection without a response. Then it is replaced.
    ///
    /// The caller of a step may drop it earlier. Then nobody would notice that the server is gone.
    response_timeout: Duration,
    state: Mutex<State>,
    /// Held while connecting, so that concurrent callers do not open a connection each.
    connecting: tokio::sync::Mutex<()>,
}

impl Connection {
    pub(crate) fn new(
        url: &str,
        connection_timeout: Duration,
        response_timeout: Duration,
    ) -> RedisResult<Self> {
        // Without `TCP_NODELAY`, a step waits for the TCP acknowledgement of the previous step.
        let settings = TcpSettings::default().set_nodelay(true);
        let client = Client::open(url.into_connection_info()?.set_tcp_settings(settings))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connection_timeout))
            .set_response_timeout(Some(response_timeout));
        let limit = connection_timeout.saturating_add(response_timeout);
        let (state, connecting) = Default::default();
        Ok(Self { client, config, limit, response_timeout, state, connecting })
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn live(&self) -> RedisResult<Live> {
        if let Some(live) = self.state(|state| state.live.clone()) {
            return Ok(live);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(live) = self.state(|state| state.live.clone()) {
            return Ok(live);
        }
        let connection =
            self.client.get_multiplexed_async_connection_with_config(&self.config).await?;
        Ok(self.state(|state| {
            state.made += 1;
            let live = Live { number: state.made, connection };
            state.live = Some(live.clone());
            state.waited = Duration::ZERO;
            live
        }))
    }

    /// Drops the connection with this number.
    ///
    /// Callers that await a response on it keep their clone.
    fn discard(&self, number: u64) {
        let discarded = self.state(|state| state.live.take_if(|live| live.number == number));
        // Dropped outside the lock.
        drop(discarded);
    }

    /// Sends commands in one round trip and returns a response to each.
    pub(crate) async fn send(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let sending = async {
            let mut live = self.live().await?;
            let count = commands.len();
            let (number, sent) = (live.number, Instant::now());
            let mut request = Request { connection: self, number, sent, answered: false };
            let answers = live.connection.req_packed_commands(commands, 0, count).await;
            request.answered = answers.is_ok();
            if answers.as_ref().map_or(true, |answers| answers.iter().any(is_demoted)) {
                self.discard(number);
            }
            answers
        };
        let answers = match tokio::time::timeout(self.limit, sending).await {
            Ok(answers) => answers.map_err(StoreError::unavailable)?,
            Err(elapsed) => return Err(StoreError::unavailable(elapsed)),
        };
        match answers.len() == commands.len() {
            true => Ok(answers),
            false => Err(StoreError::Garbled("a different number of replies than commands")),
        }
    }

    /// Runs scripts in one round trip, or in two if the server does not know some of them yet.
    pub(crate) async fn call(&self, calls: &[Call<'_>]) -> Result<Vec<Value>, StoreError> {
        let mut by_hash = Pipeline::with_capacity(calls.len());
        for call in calls {
            by_hash.add_command(call.by_hash());
        }
        let mut answers = self.send(&by_hash).await?;
        let mut by_source = Pipeline::new();
        let mut unseen = Vec::new();
        for ((call, answer), index) in calls.iter().zip(&answers).zip(0..) {
            if is(answer, ServerErrorKind::NoScript) {
                by_source.add_command(call.by_source());
                unseen.push(index);
            }
        }
        if !unseen.is_empty() {
            let again = self.send(&by_source).await?;
            for (index, answer) in unseen.into_iter().zip(again) {
                answers[index] = answer;
            }
        }
        Ok(answers)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        f.debug_struct("Connection").field("limit", &self.limit).finish_non_exhaustive()
    }
}

fn is(answer: &Value, kind: ServerErrorKind) -> bool {
    matches!(answer, Value::ServerError(error) if error.kind() == Some(kind))
}

/// Returns whether the server is now a replica.
///
/// After a failover, the name may lead to another server.
fn is_demoted(answer: &Value) -> bool {
    is(answer, ServerErrorKind::ReadOnly)
}
