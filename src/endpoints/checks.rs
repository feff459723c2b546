//! The beginning and the end of the task that checks endpoints.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{runtime::Handle, sync::Notify, task::AbortHandle};

use crate::call::lock::lock;

/// The future of a task.
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The task that checks the endpoints.
pub(super) struct Checks {
    /// Creates the future of the task.
    run: Box<dyn Fn() -> Task + Send + Sync>,
    /// Set while the task runs. A runtime that shuts down ends the task.
    is_running: Arc<AtomicBool>,
    task: Mutex<Option<AbortHandle>>,
    /// Wakes the task.
    wake: Arc<Notify>,
}

impl Checks {
    pub(super) fn new(run: impl Fn() -> Task + Send + Sync + 'static, wake: Arc<Notify>) -> Self {
        Self { run: Box::new(run), is_running: Arc::default(), task: Mutex::default(), wake }
    }

    /// Wakes the task, because a check is due earlier than it knows.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Starts the task if it does not run and there is a runtime.
    #[inline]
    pub(super) fn start(&self) {
        if !self.is_running.load(Ordering::Relaxed) {
            self.spawn();
        }
    }

    #[cold]
    fn spawn(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.is_running.swap(true, Ordering::Relaxed) {
            let (ending, run) = (Ending(Arc::clone(&self.is_running)), (self.run)());
            let task = runtime.spawn(async move {
                let _ending = ending;
                run.await;
            });
            *lock(&self.task) = Some(task.abort_handle());
        }
    }

    /// Ends the task, because the set is dropped.
    pub(super) fn end(&self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

/// Notes the end of the task when it is dropped.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
