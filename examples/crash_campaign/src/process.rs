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

/// How long a worker may take to come up, a restart of its store and a repair of its file included.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// An answer, and when its question was sent. Told to the driver also if no client waits for it any more.
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
    /// What this process may still have to do with a key: questions that it has not answered, or with a
    /// refusal for which it cleans up in the background.
    owed: HashMap<String, u32>,
    /// What is wrong with the process at this moment.
    trouble: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    ready: bool,
    reached: bool,
    /// The signal that ended it.
    gone: Option<Option<i32>>,
}

/// A worker that is no more.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) signal: Option<i32>,
    /// Whether it came to the point that it had been asked to be killed at.
    pub(crate) reached: bool,
}

impl Process {
    pub(crate) async fn start(
        place: &Place,
        answered: impl Fn(Answered) + Send + 'static,
    ) -> Outcome<Arc<Self>> {
        let mut command = Command::new(env::current_exe()?);
        command.args(place.to_args()).stdin(Stdio::piped()).stdout(Stdio::piped());
        // In a group of its own it is woken by the system if the driver dies while it is stopped, and finds
        // its input closed.
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
            // What does not end was torn when the worker was killed, and nobody was answered so.
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
                    // The client may not have waited.
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

    /// Asks; what it answers is an error if it ends before. With what is wrong with the process now, which
    /// the key then has to do with.
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

    /// The keys that are hit by what happens to this process now.
    pub(crate) fn touched(&self) -> Vec<String> {
        let asked = lock(&self.asked);
        asked.owed.iter().filter(|(_, owed)| **owed > 0).map(|(key, _)| key.clone()).collect()
    }

    pub(crate) fn is_up(&self) -> bool {
        let seen = self.seen.borrow();
        seen.ready && seen.gone.is_none()
    }

    /// Waits until it has been killed, by whomever.
    pub(crate) async fn gone(&self) -> Gone {
        let seen = self.see(|seen| seen.gone.is_some()).await;
        Gone { signal: seen.gone.flatten(), reached: seen.reached }
    }

    /// Waits until it is at the point that it was asked for.
    pub(crate) async fn reached(&self) {
        self.see(|seen| seen.reached || seen.gone.is_some()).await;
    }

    async fn see(&self, what: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.subscribe();
        // The sender is in `self`.
        seen.wait_for(what).await.map(|seen| seen.clone()).unwrap_or_default()
    }

    /// Lets it go on, after it was stopped at its point.
    pub(crate) fn resume(&self) {
        self.seen.send_modify(|seen| seen.reached = false);
        lock(&self.asked).trouble = None;
        faults::signal("CONT", self.number);
    }

    pub(crate) fn set_trouble(&self, trouble: &str) {
        lock(&self.asked).trouble = Some(trouble.to_owned());
    }

    pub(crate) fn kill(&self) {
        // An error says that it is gone already.
        let _: io::Result<()> = lock(&self.child).kill();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
