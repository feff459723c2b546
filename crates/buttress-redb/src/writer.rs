//! The only thread that reads and writes the file.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redb::{Database, Durability};
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Clock,
    panic::caught,
    tables::{Failure, Limits, Step, Tables},
};
use buttress::idempotency::StoreError;

/// The maximum number of steps in a commit, which bounds the memory held until then.
const BATCH: usize = 256;

/// The minimum time between two attempts to open the file again.
///
/// Each attempt may read the whole file.
const AGAIN_EVERY: Duration = Duration::from_secs(1);

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

/// Opens the file again. It must exist.
pub(crate) type Open = Box<dyn Fn() -> Result<Database, redb::Error> + Send>;

/// The database, which is opened again after an error.
///
/// After an error, redb's memory may differ from the disk, and redb rejects everything.
pub(crate) struct Disk {
    pub(crate) database: Option<Database>,
    again: Open,
    flush_failed: Arc<AtomicBool>,
    /// The time and the error of the last attempt to open it again.
    failed: Option<(Instant, Arc<redb::Error>)>,
}

impl Disk {
    pub(crate) fn new(again: Open, flush_failed: Arc<AtomicBool>) -> Self {
        Self { database: None, again, flush_failed, failed: None }
    }

    /// Uses the database. After a panic or an error of the disk, it is closed.
    fn with<T>(
        &mut self,
        run: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Arc<redb::Error>> {
        let database = self.opened()?;
        let done = caught(|| run(database));
        if done.as_ref().map_or(true, |done| done.as_ref().is_err_and(is_final)) {
            self.close();
        }
        done.and_then(|done| done).map_err(Arc::new)
    }

    fn opened(&mut self) -> Result<&Database, Arc<redb::Error>> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.open_again()?,
        };
        Ok(self.database.insert(database))
    }

    fn open_again(&mut self) -> Result<Database, Arc<redb::Error>> {
        if self.flush_failed.load(Ordering::Relaxed) {
            let error = "a flush has failed, so the content of the disk is not known";
            return Err(Arc::new(io::Error::other(error).into()));
        }
        if let Some((at, error)) = &self.failed
            && at.elapsed() < AGAIN_EVERY
        {
            return Err(Arc::clone(error));
        }
        let opened = caught(&self.again).and_then(|opened| opened).map_err(Arc::new);
        self.failed = opened.as_ref().err().map(|error| (Instant::now(), Arc::clone(error)));
        opened
    }

    /// Closes the file and releases its lock.
    fn close(&mut self) {
        let database = self.database.take();
        // The error that closed it has been reported.
        let _ = caught(|| drop(database));
    }
}

/// Returns whether redb rejects everything after an error. Damage in one place is no such error.
fn is_final(error: &redb::Error) -> bool {
    use redb::Error::{DatabaseClosed, Io, LockPoisoned, PreviousIo};
    matches!(error, DatabaseClosed | Io(_) | LockPoisoned(_) | PreviousIo)
}

pub(crate) struct Writer {
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) commits: Arc<AtomicU64>,
}

impl Writer {
    /// Runs steps until the last sender is dropped or a message to close arrives.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Message>) {
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
                self.disk.close();
                let _ = done.send(());
                return;
            }
        }
        self.disk.close();
    }

    fn work_off(&mut self, batch: &mut Vec<Box<dyn Job>>) {
        let committed = self.commit(batch);
        for job in batch.drain(..) {
            job.answer(committed.as_ref().map(|&()| ()));
        }
    }

    /// Runs all steps in one transaction. After an error it is dropped, and no step has an effect.
    fn commit(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), Arc<redb::Error>> {
        if batch.is_empty() {
            return Ok(());
        }
        let Self { disk, clock, limits, commits } = self;
        disk.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            let mut tables = Tables::open(&transaction, *limits).map_err(Failure::into_broken)?;
            tables.set_now(clock.now());
            for job in batch {
                job.run(&mut tables)?;
            }
            let changed = tables.finish().map_err(Failure::into_broken)?;
            // A batch that only read has nothing to make durable, and a commit would cost a flush.
            if changed {
                transaction.commit()?;
                commits.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    }
}
