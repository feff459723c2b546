//! The connections of a store.
//!
//! A step occupies a slot from the attempt to connect until the server has ended its statement,
//! even if the step is dropped. The slot of the pool beneath is free when a step is dropped while
//! it connects. The connections of dropped steps would then pile up at a server that stalls.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use buttress::idempotency::StorageKey;
use deadpool_postgres::{Object, PoolError};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinError,
    time::timeout,
};
use tokio_postgres::{
    CancelToken, Error, Row, Socket,
    tls::{MakeTlsConnect, TlsConnect},
    types::ToSql,
};

use crate::turns::{Turn, Turns};

/// The time that the server has to end the statement of a dropped step by itself.
///
/// Most statements take less. Without it, each caller that disconnects would cost a connection.
const GRACE: Duration = Duration::from_millis(50);

/// The time limit for a request to cancel a statement, and for its effect.
///
/// After it, the connection is silent: the server or the network does not respond on it.
const CANCELLED: Duration = Duration::from_secs(1);

/// The time after which the statement of a silent connection counts as ended.
const GONE: Duration = Duration::from_secs(30);

type Cancel = Box<dyn Fn(CancelToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The reason why a step or a set-up got no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConnection {
    #[error("no connection of the store became free in time")]
    Busy,
    #[error("the server did not respond in time")]
    Late,
    #[error("the server does not accept a connection")]
    Failed(#[from] PoolError),
    #[error("the task that connects has ended")]
    Ended(#[from] JoinError),
}

/// The connections of all clones of a store.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    connections: deadpool_postgres::Pool,
    slots: Arc<Semaphore>,
    /// The number of silent connections that may still be replaced.
    ///
    /// It bounds the backends of a server that cannot end statements to two for each slot.
    replaceable: Semaphore,
    turns: Turns,
    cancel: Cancel,
    /// The time limit for waiting for a slot.
    patience: Duration,
}

impl Pool {
    /// Limits `connections` to steps that wait for the end of dropped ones.
    pub(crate) fn new<T>(connections: deadpool_postgres::Pool, tls: T, patience: Duration) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let size = connections.status().max_size;
        let cancel: Cancel = Box::new(move |token| {
            let tls = tls.clone();
            Box::pin(async move { drop(token.cancel_query(tls).await) })
        });
        Self(Arc::new(Shared {
            connections,
            slots: Arc::new(Semaphore::new(size)),
            replaceable: Semaphore::new(size),
            turns: Turns::new(size.div_ceil(4)),
            cancel,
            patience,
        }))
    }

    /// Waits for a slot, and returns its connection, which is opened if none is idle.
    ///
    /// A step on a single record names its key, and first waits for the turn of the key.
    pub(crate) async fn lease(&self, key: Option<&StorageKey>) -> Result<Lease, NoConnection> {
        let shared = &self.0;
        let slot = async {
            let turn = match key {
                Some(key) => Some(shared.turns.take(*key).await),
                None => None,
            };
            // The semaphore is never closed.
            let slot = Arc::clone(&shared.slots).acquire_owned().await.ok();
            Slot { _slot: slot, _turn: turn }
        };
        let slot = timeout(shared.patience, slot).await.map_err(|_| NoConnection::Busy)?;
        let pool = self.clone();
        let mut connecting = Box::pin(async move {
            let connection = pool.0.connections.get().await?;
            Ok(Lease { pool, lent: Some((connection, slot)), phase: Phase::Idle })
        });
        // An idle connection is there at once.
        match poll_fn(|cx| Poll::Ready(connecting.as_mut().poll(cx))).await {
            Poll::Ready(leased) => leased,
            // In a task, which keeps the slot if the step is dropped while it connects.
            Poll::Pending => tokio::spawn(connecting).await?,
        }
    }
}

impl Shared {
    /// Waits until the server has ended the statement of a dropped step, which it may cancel.
    async fn settle(&self, connection: Object, slot: Slot, reusable: bool) {
        // The response arrives after that of the statement.
        let ended = timeout(GRACE, connection.check_connection()).await;
        if reusable && matches!(ended, Ok(Ok(()))) {
            return;
        }
        // Not reused after a cancel request, which could hit the next statement.
        let connection = Object::take(connection);
        let cancelled = async {
            if ended.is_err() {
                (self.cancel)(connection.cancel_token()).await;
                let _ = connection.check_connection().await;
            }
        };
        if timeout(CANCELLED, cancelled).await.is_ok() {
            return;
        }
        let replaced = self.replaceable.try_acquire();
        if replaced.is_ok() {
            // The idle ones may be silent, too, and each would cost a step to find out.
            self.connections.retain(|_, _| false);
            drop(slot);
        }
        let _ = timeout(GONE, connection.check_connection()).await;
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = self.0.connections.status().available;
        f.debug_struct("Pool").field("idle", &idle).finish_non_exhaustive()
    }
}

/// The right to use a connection, and the turn of its key.
struct Slot {
    _slot: Option<OwnedSemaphorePermit>,
    _turn: Option<Turn>,
}

/// A connection on loan from the pool.
///
/// If the step is dropped while the server works on it, the statement is cancelled. Otherwise, the
/// next user of the connection would wait for the response to the dropped step.
pub(crate) struct Lease {
    pool: Pool,
    /// The connection and its slot, until the lease is dropped.
    lent: Option<(Object, Slot)>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Idle,
    /// The server may keep a statement that the connection does not know of.
    Preparing,
    Running,
}

impl Lease {
    /// Runs a statement, which is prepared once for each connection.
    ///
    /// The rows arrive only when the server is ready for the next statement, so it has committed.
    pub(crate) async fn query(
        &mut self,
        text: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let Some((connection, _)) = &self.lent else { return Ok(Vec::new()) };
        self.phase = Phase::Preparing;
        let prepared = connection.prepare_cached(text).await;
        self.phase = Phase::Running;
        let rows = match prepared {
            Ok(statement) => connection.query(&statement, parameters).await,
            Err(error) => Err(error),
        };
        self.phase = Phase::Idle;
        rows
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some((connection, slot)) = self.lent.take() else { return };
        if self.phase == Phase::Idle {
            // Before the slot, whose next user finds it idle.
            drop(connection);
            return;
        }
        // Without a runtime, the connection has ended.
        let Ok(runtime) = Handle::try_current() else { return drop(Object::take(connection)) };
        let (pool, reusable) = (self.pool.clone(), self.phase == Phase::Running);
        runtime.spawn(async move { pool.0.settle(connection, slot, reusable).await });
    }
}
