//! The only thread that reads and writes the file.

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

/// The maximum number of steps in a commit, which bounds the memory held until then.
const BATCH: usize = 256;

/// A message to the thread.
pub(crate) enum Message {
    Step(Box<dyn Job>),
    /// Closes the file, and then sends a confirmation.
    Close(oneshot::Sender<()>),
}

/// A step, with the sender of its result.
pub(crate) trait Job: Send {
    /// Runs the step.
    ///
    /// # Errors
    ///
    /// Returns an error only if the file is broken. A rejected step keeps its error as its
    /// result.
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), redb::Error>;

    /// Sends the result after the commit, or the error of the commit.
    fn answer(self: Box<Self>, committed: Result<(), &Arc<redb::Error>>);
}

/// A step given as a closure.
struct Call<F, T> {
    step: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

/// Returns the message for the thread, and the receiver of the result.
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
            // The caller may be gone.
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
    /// Runs steps until the last sender is dropped or a message to close arrives.
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
                // Dropping the queue fails the steps that are still in it, so that their callers
                // do not wait.
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

    /// Runs all steps in one transaction. After an error it is dropped, and no step has an effect.
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
        // A batch that only read has nothing to make durable, and a commit would cost a flush.
        if changed {
            transaction.commit()?;
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
