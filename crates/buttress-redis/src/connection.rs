//! One connection that all steps share, made anew when it is of no more use.
//!
//! Not the client's own manager: after an answer that did not come in time it keeps the connection, and a
//! server that vanished without a word would be waited for until TCP gives up; and once it could not
//! connect for any reason but I/O, such as too many clients, it never tries again.

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
}

pub(crate) struct Connection {
    client: Client,
    config: AsyncConnectionConfig,
    /// The longest that a step may take: a caller may have to wait for another to connect.
    limit: Duration,
    state: Mutex<State>,
    /// Held by whoever connects, so that a crowd does not open a crowd of connections.
    connecting: tokio::sync::Mutex<()>,
}

impl Connection {
    pub(crate) fn new(
        url: &str,
        connection_timeout: Duration,
        response_timeout: Duration,
    ) -> RedisResult<Self> {
        // Or a step waits for the acknowledgement of the one before it.
        let settings = TcpSettings::default().set_nodelay(true);
        let client = Client::open(url.into_connection_info()?.set_tcp_settings(settings))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connection_timeout))
            .set_response_timeout(Some(response_timeout));
        let limit = connection_timeout.saturating_add(response_timeout);
        Ok(Self { client, config, limit, state: Mutex::default(), connecting: Default::default() })
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
            live
        }))
    }

    /// Others that still await an answer keep their clone.
    fn discard(&self, number: u64) {
        let discarded = self.state(|state| state.live.take_if(|live| live.number == number));
        // Dropped outside the lock.
        drop(discarded);
    }

    /// Sends commands in one trip, and gives the answer to each.
    pub(crate) async fn send(&self, commands: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let sending = async {
            let mut live = self.live().await?;
            let count = commands.len();
            let answers = live.connection.req_packed_commands(commands, 0, count).await;
            if answers.as_ref().map_or(true, |answers| answers.iter().any(is_demoted)) {
                self.discard(live.number);
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

    /// Runs scripts in one trip; in two, if the server has not seen them yet.
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

/// After a failover the same name may lead to another server.
fn is_demoted(answer: &Value) -> bool {
    is(answer, ServerErrorKind::ReadOnly)
}
