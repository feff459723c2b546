//! The one thread that touches the file.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use redb::{Database, Durability};
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Clock,
    tables::{Failure, Limits, Step, Tables},
};
use buttress::idempotency::StoreError;

/// How many steps share a commit at most: what is held in memory until then is bounded.
const BATCH: usize = 256;

/// What the thread is asked to do.
pub(crate) enum Message {
    Step(Box<dyn Job>),
    /// Close the file, and say when it is.
    Close(oneshot::Sender<()>),
}

/// A step with somebody who waits for its answer.
pub(crate) trait Job: Send {
    /// # Errors
    ///
    /// Only if the file is broken; a step that is refused keeps that as its answer.
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error>;

    /// After the commit, or what came in its place.
    fn answer(self: Box<Self>, committed: Result<(), &Arc<redb::Error>>);
}

/// A step that is a closure.
struct Call<F, T> {
    step: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// What to send to the thread, and where its answer comes.
pub(crate) fn call<F, T>(step: F) -> (Message, oneshot::Receiver<Result<T, StoreError>>)
where
    F: FnOnce(&mut Tables<'_>) -> Step<T> + Send + 'static,
    T: Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Message::Step(Box::new(Call { step: Some(step), result: None, reply })), answer)
}

impl<F, T> Job for Call<F, T>
where
    F: FnOnce(&mut Tables<'_>) -> Step<T> + Send,
    T: Send,
{
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        self.result = match self.step.take().map(|step| step(tables)) {
            None => None,
            Some(Ok(answer)) => Some(Ok(answer)),
            Some(Err(Failure::Refused(error))) => Some(Err(error)),
            Some(Err(Failure::Broken(error))) => return Err(error),
        };
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), &Arc<redb::Error>>) {
        let answer = match committed {
            Ok(()) => self.result,
            Err(error) => Some(Err(StoreError::unavailable(Arc::clone(error)))),
        };
        if let Some(answer) = answer {
            // Whoever asked may be gone.
            let _ = self.reply.send(answer);
        }
    }
}

pub(crate) struct Writer {
    pub(crate) database: Database,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) commits: Arc<AtomicU64>,
}

impl Writer {
    /// Works until the last sender is gone, or it is told to close.
    pub(crate) fn run(self, mut queue: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = queue.blocking_recv() {
            let mut next = Some(first);
            let mut closed = None;
            while let Some(message) = next {
                match message {
                    Message::Step(job) => batch.push(job),
                    Message::Close(done) => {
                        closed = Some(done);
                        break;
                    }
                }
                next = match batch.len() < BATCH {
                    true => queue.try_recv().ok(),
                    false => None,
                };
            }
            self.work_off(&mut batch);
            if let Some(done) = closed {
                // What is still in the queue is told that the store is gone, and not left to wait.
                drop(queue);
                drop(self);
                let _ = done.send(());
                return;
            }
        }
    }

    fn work_off(&self, batch: &mut Vec<Box<dyn Job>>) {
        let committed = self.commit(batch).map_err(Arc::new);
        for job in batch.drain(..) {
            job.answer(committed.as_ref().map(|&()| ()));
        }
    }

    /// Takes all steps in one transaction. On an error it is dropped, and none of them has been taken.
    fn commit(&self, batch: &mut [Box<dyn Job>]) -> Result<(), redb::Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut tables = Tables::open(&transaction, self.limits).map_err(Failure::into_broken)?;
        tables.set_now(self.clock.now());
        for job in batch {
            job.run(&mut tables)?;
        }
        let changed = tables.finish().map_err(Failure::into_broken)?;
        // What has only been read is durable already, and a commit would cost a flush.
        if changed {
            transaction.commit()?;
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
