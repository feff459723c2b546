//! The driver, which starts a store and its workers, sends requests, and injects faults.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use crate::{
    LEASE, Outcome, STORE_TIMEOUT,
    client::{CLIENT_TIMEOUT, Client},
    dice::Dice,
    faults::{Deed, Fault, Point},
    history::{History, KeyHistory},
    ledger::{Charge, Ledger},
    process::{Process, lock},
    protocol::{Ask, Call, Found, Policy, Reply},
    stores::{Kind, Server},
    worker::Place,
};

/// The number of healthy keys that run beside each fault.
const HEALTHY: usize = 14;

/// The time over which the healthy keys start, in milliseconds.
const SPREAD: u64 = 240;

/// The faults of the campaign, and the data to check afterwards.
pub(crate) struct Evidence {
    pub(crate) crashes: BTreeMap<&'static str, u64>,
    pub(crate) worker_pauses: u64,
    pub(crate) store_pauses: u64,
    pub(crate) store_restarts: u64,
    pub(crate) histories: BTreeMap<String, KeyHistory>,
    pub(crate) found: BTreeMap<String, Found>,
    pub(crate) charges: Vec<Charge>,
    /// In the order in which it was noted.
    pub(crate) journal: Vec<Noted>,
    pub(crate) took: Duration,
}

/// A step of the store, as a worker has noted it.
pub(crate) struct Noted {
    pub(crate) step: String,
    /// The storage key of the record.
    pub(crate) key: String,
    pub(crate) fence: u64,
}

/// The campaign on one store.
pub(crate) struct Campaign {
    begun: Instant,
    kind: Kind,
    folder: PathBuf,
    server: Mutex<Server>,
    place: Place,
    slots: Vec<Mutex<Option<Arc<Process>>>>,
    pub(crate) history: Arc<History>,
    pub(crate) dice: Dice,
    keys: AtomicU64,
    /// The label of the store's current fault.
    pub(crate) trouble: Mutex<Option<String>>,
    clients: Mutex<JoinSet<()>>,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    crashes: BTreeMap<&'static str, u64>,
    worker_pauses: u64,
    store_pauses: u64,
    store_restarts: u64,
}

/// Runs the campaign on one store.
pub(crate) async fn run(kind: Kind, rounds: u64, seed: u64) -> Outcome<Evidence> {
    let campaign = Campaign::start(kind, seed).await?;
    for round in 0..rounds {
        campaign.round(round).await?;
    }
    campaign.finish().await
}

/// Kills workers between effect and response without the idempotency layer.
pub(crate) async fn run_control(rounds: u64, seed: u64) -> Outcome<Evidence> {
    let campaign = Campaign::start(Kind::Unguarded, seed).await?;
    for round in 0..rounds {
        campaign.kill_at(round, Point::BetweenEffectAndRecord).await?;
    }
    campaign.finish().await
}

impl Campaign {
    async fn start(kind: Kind, seed: u64) -> Outcome<Arc<Self>> {
        let begun = Instant::now();
        let name = format!("buttress-campaign-{}-{}", std::process::id(), kind.name());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder)?;
        let server = spawn_blocking(move || Server::start(kind)).await??;
        let place = Place {
            name: String::new(),
            kind,
            store: server.place(&folder),
            ledger: folder.join("ledger"),
            journal: folder.join("journal"),
        };
        let campaign = Arc::new(Self {
            begun,
            kind,
            folder,
            server: Mutex::new(server),
            place,
            slots: (0..kind.workers()).map(|_| Mutex::default()).collect(),
            history: Arc::default(),
            dice: Dice::new(seed),
            keys: AtomicU64::new(0),
            trouble: Mutex::default(),
            clients: Mutex::default(),
            done: Mutex::default(),
        });
        for slot in 0..campaign.slots.len() {
            campaign.start_worker(slot).await?;
        }
        Ok(campaign)
    }

    async fn start_worker(&self, slot: usize) -> Outcome<()> {
        let place = Place { name: format!("w{slot}"), ..self.place.clone() };
        let history = Arc::clone(&self.history);
        let process = Process::start(&place, move |answered| history.note(answered)).await?;
        *lock(&self.slots[slot]) = Some(process);
        Ok(())
    }

    fn worker(&self, slot: usize) -> Outcome<Arc<Process>> {
        lock(&self.slots[slot]).clone().ok_or_else(|| "there is no worker".into())
    }

    /// Injects one of each fault, with healthy keys beside each.
    async fn round(self: &Arc<Self>, round: u64) -> Outcome<()> {
        for point in Point::KILLS {
            self.kill_at(round, point).await?;
        }
        self.kill_at_random(round).await?;
        for point in Point::STOPS {
            self.stop_at(round, point).await?;
        }
        if self.kind.workers() > 1 {
            self.kill_store().await?;
        }
        self.pause_store().await
    }

    async fn kill_at(self: &Arc<Self>, round: u64, point: Point) -> Outcome<()> {
        self.healthy();
        self.some_time().await;
        let slot = self.dice.below(self.slots.len() as u64) as usize;
        let process = self.worker(slot)?;
        let fault = Fault { deed: Deed::Kill, point };
        self.faulted(round, &process, Some(fault), self.work_for(round, point));
        let Ok(gone) = timeout(Duration::from_secs(5), process.gone()).await else {
            return Err(format!("{}: {fault} was not reached within 5 s", process.name).into());
        };
        if gone.signal != Some(9) || !gone.reached {
            return Err(format!("{} ended by itself: {gone:?}", process.name).into());
        }
        self.crashed(slot, &process, point.name()).await
    }

    async fn kill_at_random(self: &Arc<Self>, round: u64) -> Outcome<()> {
        self.healthy();
        self.some_time().await;
        let slot = self.dice.below(self.slots.len() as u64) as usize;
        let process = self.worker(slot)?;
        self.faulted(round, &process, None, (self.dice.below(15), self.dice.below(15)));
        sleep(Duration::from_millis(self.dice.below(40))).await;
        process.kill();
        process.gone().await;
        self.crashed(slot, &process, "random").await
    }

    async fn crashed(&self, slot: usize, process: &Process, at: &'static str) -> Outcome<()> {
        self.history.hit(&process.touched(), &format!("{} killed: {at}", process.name));
        {
            let mut done = lock(&self.done);
            *done.crashes.entry(at).or_default() += 1;
            if self.kind == Kind::Redb {
                done.store_restarts += 1;
            }
        }
        self.start_worker(slot).await
    }

    /// Pauses a worker until its lease has ended, and resumes it, so that its next steps come late.
    async fn stop_at(self: &Arc<Self>, round: u64, point: Point) -> Outcome<()> {
        self.healthy();
        self.some_time().await;
        let slot = self.dice.below(self.slots.len() as u64) as usize;
        let process = self.worker(slot)?;
        let fault = Fault { deed: Deed::Stop, point };
        let label = format!("{} stopped: {}", process.name, point.name());
        self.faulted(round, &process, Some(fault), (0, 0));
        if timeout(Duration::from_secs(5), process.reached()).await.is_err() || !process.is_up() {
            return Err(format!("{}: {fault} was not reached", process.name).into());
        }
        process.set_trouble(&label);
        self.history.hit(&process.touched(), &label);
        sleep(LEASE + Duration::from_millis(50 + self.dice.below(200))).await;
        self.history.hit(&process.touched(), &label);
        process.resume();
        lock(&self.done).worker_pauses += 1;
        Ok(())
    }

    async fn kill_store(self: &Arc<Self>) -> Outcome<()> {
        self.healthy();
        self.some_time().await;
        let label = self.trouble_begins("killed");
        let down = Duration::from_millis(self.dice.below(150));
        let campaign = Arc::clone(self);
        spawn_blocking(move || {
            let mut server = lock(&campaign.server);
            server.kill()?;
            std::thread::sleep(down);
            server.restart()
        })
        .await??;
        self.trouble_ends(&label);
        lock(&self.done).store_restarts += 1;
        Ok(())
    }

    /// Pauses the store for longer than the layer's store timeout.
    async fn pause_store(self: &Arc<Self>) -> Outcome<()> {
        self.healthy();
        self.some_time().await;
        let label = self.trouble_begins("stopped");
        let pause = STORE_TIMEOUT + Duration::from_millis(50 + self.dice.below(250));
        if self.kind == Kind::Redb {
            // redb has no process of its own, so its steps are delayed in the worker.
            let stall = Ask::Stall(pause.as_millis() as u64);
            let _ = self.worker(0)?.ask("-", &stall).1.await;
        } else {
            let campaign = Arc::clone(self);
            spawn_blocking(move || {
                let server = lock(&campaign.server);
                server.pause()?;
                std::thread::sleep(pause);
                server.resume()
            })
            .await??;
        }
        self.trouble_ends(&label);
        lock(&self.done).store_pauses += 1;
        Ok(())
    }

    fn trouble_begins(&self, what: &str) -> String {
        let label = format!("store {what} at key {}", self.keys.load(Ordering::Relaxed));
        *lock(&self.trouble) = Some(label.clone());
        self.hit_all(&label);
        label
    }

    fn trouble_ends(&self, label: &str) {
        self.hit_all(label);
        *lock(&self.trouble) = None;
    }

    fn hit_all(&self, label: &str) {
        for slot in &self.slots {
            let process = lock(slot).clone();
            if let Some(process) = process {
                self.history.hit(&process.touched(), label);
            }
        }
    }

    /// Waits until some of the healthy keys are in flight and some are completed.
    async fn some_time(&self) {
        sleep(Duration::from_millis(20 + self.dice.below(60))).await;
    }

    fn work_for(&self, round: u64, point: Point) -> (u64, u64) {
        // A lease is renewed after a third of it.
        let long = LEASE.as_millis() as u64 / 3 + 60;
        match (point, round % 2) {
            (Point::InRenewal, 0) => (0, long),
            (Point::InRenewal, _) => (long, 0),
            _ => (self.dice.below(4), self.dice.below(4)),
        }
    }

    fn new_call(&self, policy: Policy, work: (u64, u64)) -> Call {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        let (key, payload) = (format!("key-{number:05}"), format!("pay-{number}"));
        self.history.begin(&key, policy);
        Call { key, payload, policy, work, fault: None }
    }

    /// Starts a client for a key that the fault must hit.
    fn faulted(
        self: &Arc<Self>,
        round: u64,
        process: &Arc<Process>,
        fault: Option<Fault>,
        work: (u64, u64),
    ) {
        let policy = match round / 2 % 2 {
            0 => Policy::Reconcile,
            _ => Policy::Quarantine,
        };
        let call = self.new_call(policy, work);
        let first = Some((Arc::clone(process), fault));
        self.client(Client { call, first, wait: 0, lane: 0 });
    }

    /// Starts clients for healthy keys, although a fault may hit some of them.
    fn healthy(self: &Arc<Self>) {
        if self.kind == Kind::Unguarded {
            return;
        }
        for number in 0..HEALTHY {
            let policy = match number % 4 {
                0 => Policy::Reconcile,
                _ => Policy::Quarantine,
            };
            let call = self.new_call(policy, (self.dice.below(4), self.dice.below(4)));
            let wait = self.dice.below(SPREAD);
            // Every third request is sent twice at once, to different workers if there are several.
            for lane in 0..1 + usize::from(number % 3 == 0) {
                let lane = number + lane;
                self.client(Client { call: call.clone(), first: None, wait, lane });
            }
        }
    }

    fn client(self: &Arc<Self>, client: Client) {
        self.history.with(&client.call.key, |history| history.unanswered += 1);
        lock(&self.clients).spawn(client.run(Arc::clone(self)));
    }

    /// Returns a worker that is up, starting the search at an index.
    pub(crate) fn any_worker(&self, from: usize) -> Option<Arc<Process>> {
        let slots = self.slots.len();
        (from..from + slots)
            .filter_map(|slot| lock(&self.slots[slot % slots]).clone())
            .find(|process| process.is_up())
    }

    /// Waits until everything has ended, and then asks the store for its record of each key.
    async fn finish(self: Arc<Self>) -> Outcome<Evidence> {
        // No faults happen from here on.
        sleep(2 * LEASE).await;
        let mut clients = std::mem::take(&mut *lock(&self.clients));
        while let Some(ended) = clients.join_next().await {
            ended?;
        }
        let keys = match self.kind {
            Kind::Unguarded => Vec::new(),
            _ => self.history.keys(),
        };
        let found = stream::iter(keys.into_iter().enumerate())
            .map(|(lane, key)| {
                let campaign = Arc::clone(&self);
                async move {
                    let found = campaign.probe(&key, lane).await;
                    (key, found)
                }
            })
            .buffer_unordered(8)
            .collect()
            .await;
        self.end_workers().await;
        let done = std::mem::take(&mut *lock(&self.done));
        Ok(Evidence {
            crashes: done.crashes,
            worker_pauses: done.worker_pauses,
            store_pauses: done.store_pauses,
            store_restarts: done.store_restarts,
            histories: self.history.take(),
            found,
            charges: Ledger::at(&self.place.ledger).read()?,
            journal: read_journal(&self.place.journal)?,
            took: self.begun.elapsed(),
        })
    }

    /// Asks the store for its record of a key.
    pub(crate) async fn probe(&self, key: &str, lane: usize) -> Found {
        let mut last = Found::Failed("nobody was asked".to_owned());
        for attempt in 0..5 {
            if let Some(process) = self.any_worker(lane + attempt) {
                let (_, reply) = process.ask(key, &Ask::Probe(key.to_owned()));
                match timeout(CLIENT_TIMEOUT, reply).await {
                    Ok(Ok(Reply::Found(Found::Failed(why)))) => last = Found::Failed(why),
                    Ok(Ok(Reply::Found(found))) => return found,
                    _ => last = Found::Failed("no answer".to_owned()),
                }
            }
            sleep(Duration::from_millis(30)).await;
        }
        last
    }

    async fn end_workers(&self) {
        for slot in &self.slots {
            let process = lock(slot).take();
            if let Some(process) = process {
                process.kill();
                process.gone().await;
            }
        }
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        for slot in &self.slots {
            if let Some(process) = lock(slot).take() {
                process.kill();
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn read_journal(path: &Path) -> Outcome<Vec<Noted>> {
    let journal = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let noted = journal.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (step, key) = (words.next()?.to_owned(), words.next()?.to_owned());
        Some(Noted { step, key, fence: words.next()?.parse().ok()? })
    });
    Ok(noted.collect())
}
