//! A worker as the driver sees it.

use std::{
    collections::HashMap,
    env,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use crate::{
    Outcome, faults,
    protocol::{Ask, Reply},
    worker::Place,
};

/// The time limit for a worker's start, including a restart of its store and a repair of its file.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A response, and when its request was sent. The driver gets it even if no client waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) key: String,
    pub(crate) reply: Reply,
    pub(crate) sent: Instant,
}

pub(crate) struct Process {
    pub(crate) name: String,
    number: u32,
    child: Mutex<Child>,
    input: Mutex<ChildStdin>,
    asked: Mutex<Asked>,
    seen: watch::Sender<Seen>,
}

#[derive(Default)]
struct Asked {
    next: u64,
    waiting: HashMap<u64, (String, Instant, oneshot::Sender<Reply>)>,
    /// The number of requests for each key that this process may still work on.
    ///
    /// They are requests without a response, and requests that got "unavailable" and are cleaned
    /// up in the background.
    owed: HashMap<String, u32>,
    /// The label of the process's current fault.
    trouble: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    ready: bool,
    reached: bool,
    /// The signal that ended it.
    gone: Option<Option<i32>>,
}

/// A worker that has ended.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) signal: Option<i32>,
    /// Set when it has reached the point at which it was to be killed.
    pub(crate) reached: bool,
}

impl Process {
    pub(crate) async fn start(
        place: &Place,
        answered: impl Fn(Answered) + Send + 'static,
    ) -> Outcome<Arc<Self>> {
        let mut command = Command::new(env::current_exe()?);
        command.args(place.to_args()).stdin(Stdio::piped()).stdout(Stdio::piped());
        // In its own process group. If the driver dies while the worker is paused, the system
        // resumes the worker, which then finds its input closed.
        command.process_group(0);
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a worker without input and output".into());
        };
        let process = Arc::new(Self {
            name: format!("{}.{}", place.name, child.id()),
            number: child.id(),
            child: Mutex::new(child),
            input: Mutex::new(input),
            asked: Mutex::default(),
            seen: watch::Sender::default(),
        });
        let listening = Arc::clone(&process);
        thread::spawn(move || listening.listen(output, answered));
        let up = tokio::time::timeout(
            STARTS_WITHIN,
            process.see(|seen| seen.ready || seen.gone.is_some()),
        );
        match up.await {
            Ok(Seen { gone: None, .. }) => Ok(process),
            _ => {
                process.kill();
                Err(format!("{} does not start", process.name).into())
            }
        }
    }

    fn listen(&self, output: ChildStdout, answered: impl Fn(Answered)) {
        let mut output = BufReader::new(output);
        let mut line = String::new();
        loop {
            line.clear();
            // A line without an end was torn when the worker was killed, so no client got it as a
            // response.
            if output.read_line(&mut line).is_err() || !line.ends_with('\n') {
                break;
            }
            let line = line.trim_end();
            match line.split_once(' ') {
                None if line == "ready" => self.seen.send_modify(|seen| seen.ready = true),
                Some(("reached", _)) => self.seen.send_modify(|seen| seen.reached = true),
                Some((id, reply)) => {
                    let Ok(id) = id.parse() else { continue };
                    let reply = reply.parse().unwrap_or_else(|()| Reply::Odd(reply.to_owned()));
                    let Some((key, sent, client)) = self.take(id, &reply) else { continue };
                    answered(Answered { key, reply: reply.clone(), sent });
                    // The client may not wait any more.
                    let _ = client.send(reply);
                }
                None => {}
            }
        }
        let signal = lock(&self.child).wait().ok().and_then(|status| status.signal());
        lock(&self.asked).waiting.clear();
        self.seen.send_modify(|seen| seen.gone = Some(signal));
    }

    fn take(&self, id: u64, reply: &Reply) -> Option<(String, Instant, oneshot::Sender<Reply>)> {
        let mut asked = lock(&self.asked);
        let question = asked.waiting.remove(&id)?;
        if *reply != Reply::Unavailable
            && let Some(owed) = asked.owed.get_mut(&question.0)
        {
            *owed = owed.saturating_sub(1);
        }
        Some(question)
    }

    /// Sends a request.
    ///
    /// The receiver fails if the process ends before it responds. Also returns the label of the
    /// process's current fault, which then counts as a fault of the key.
    pub(crate) fn ask(&self, key: &str, ask: &Ask) -> (Option<String>, oneshot::Receiver<Reply>) {
        let (client, reply) = oneshot::channel();
        let (id, trouble) = {
            let mut asked = lock(&self.asked);
            asked.next += 1;
            let id = asked.next;
            asked.waiting.insert(id, (key.to_owned(), Instant::now(), client));
            *asked.owed.entry(key.to_owned()).or_default() += 1;
            (id, asked.trouble.clone())
        };
        let written = lock(&self.input).write_all(format!("{id} {ask}\n").as_bytes());
        if written.is_err() {
            lock(&self.asked).waiting.remove(&id);
        }
        (trouble, reply)
    }

    /// Returns the keys that a fault of this process hits now.
    pub(crate) fn touched(&self) -> Vec<String> {
        let asked = lock(&self.asked);
        asked.owed.iter().filter(|(_, owed)| **owed > 0).map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn is_up(&self) -> bool {
        let seen = self.seen.borrow();
        seen.ready && seen.gone.is_none()
    }

    /// Waits until the process has ended.
    pub(crate) async fn gone(&self) -> Gone {
        let seen = self.see(|seen| seen.gone.is_some()).await;
        Gone { signal: seen.gone.flatten(), reached: seen.reached }
    }

    /// Waits until the process is at its requested point.
    pub(crate) async fn reached(&self) {
        self.see(|seen| seen.reached || seen.gone.is_some()).await;
    }

    async fn see(&self, what: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.subscribe();
        // Cannot fail, because `self` holds the sender.
        seen.wait_for(what).await.map(|seen| seen.clone()).unwrap_or_default()
    }

    /// Resumes the process after it was paused at its point.
    pub(crate) fn resume(&self) {
        self.seen.send_modify(|seen| seen.reached = false);
        lock(&self.asked).trouble = None;
        faults::signal("CONT", self.number);
    }

    pub(crate) fn set_trouble(&self, trouble: &str) {
        lock(&self.asked).trouble = Some(trouble.to_owned());
    }

    pub(crate) fn kill(&self) {
        // An error means that it has ended already.
        let _: io::Result<()> = lock(&self.child).kill();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
