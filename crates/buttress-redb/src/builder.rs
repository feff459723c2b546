//! Checks the settings, opens the file, and settles what the last process left in it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use buttress::{BoxError, ConfigError, idempotency::StoreError};
use redb::{Database, Durability};
use tokio::sync::mpsc;

use crate::{
    JoinOnDrop, RedbStore,
    clock::Clock,
    tables::{Failure, Limits, Tables},
    writer::Writer,
};

/// How many steps may wait for the thread. Claims beyond it are refused, all else waits.
const QUEUE: usize = 1024;

/// redb's own default is a gigabyte.
const CACHE: usize = 64 * 1024 * 1024;

/// redb takes values of up to 3 GiB; one that it refused would end the whole batch.
const LARGEST_PAYLOAD: usize = 1024 * 1024 * 1024;

/// Configures a [`RedbStore`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedbStoreBuilder {
    path: PathBuf,
    limits: Limits,
}

/// The error returned when a file was not opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedbSetupError {
    /// A setting of the builder cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Somebody else has it.
    #[error(
        "{} is already open, in this process or another: one process at a time may use a file",
        .0.display()
    )]
    InUse(PathBuf),
    /// It was written by a newer version of this crate.
    #[error("{} has layout {version}, which is newer than this program supports", .path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The version of its layout.
        version: u16,
    },
    /// It cannot be read or written, or is not a file of records.
    #[error("{} cannot be opened", .path.display())]
    Failed {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: BoxError,
    },
}

impl RedbStore {
    /// Opens a file, or makes one, with the defaults of the [builder](Self::builder).
    ///
    /// Blocks, after a crash for as long as it takes to repair the file.
    ///
    /// # Errors
    ///
    /// If another process has it open, or this one, if a newer version of this crate has written it, or
    /// if it cannot be read or is something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RedbSetupError> {
        Self::builder(path).build()
    }

    /// Returns the builder of a store in a file.
    pub fn builder(path: impl AsRef<Path>) -> RedbStoreBuilder {
        let limits = Limits { records: 10_000_000, payload: 16 * 1024 * 1024 };
        RedbStoreBuilder { path: path.as_ref().to_owned(), limits }
    }

    pub(crate) fn start(database: Database, limits: Limits) -> Result<Self, NotOpened> {
        let clock = recover(&database, limits)?;
        let commits = Arc::<AtomicU64>::default();
        let writer = Writer { database, clock, limits, commits: Arc::clone(&commits) };
        let (queue, steps) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("buttress-redb".into())
            .spawn(move || writer.run(steps))
            .map_err(|error| NotOpened::Failed(error.into()))?;
        Ok(Self { queue, commits, _thread: Arc::new(JoinOnDrop(Some(thread))) })
    }
}

impl RedbStoreBuilder {
    /// Sets the maximum number of records, including those whose time is over and that are not
    /// [swept](buttress::idempotency::Store::sweep) yet.
    ///
    /// Default: `10_000_000`.
    ///
    /// At least 1. Beyond it claims are [`Full`](StoreError::Full).
    pub fn max_records(mut self, records: u64) -> Self {
        self.limits.records = records;
        self
    }

    /// Sets the maximum number of bytes of a result or a checkpoint.
    ///
    /// Default: 16 MiB.
    ///
    /// From 1 to 1 GiB. A step with more is [`Full`](StoreError::Full).
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.limits.payload = bytes;
        self
    }

    /// Checks the settings, and opens the file or creates it.
    ///
    /// Blocks, after a crash for as long as it takes to repair the file.
    ///
    /// # Errors
    ///
    /// If a setting is invalid, if another process has the file open, or this one, if a newer version
    /// of this crate has written it, or if it cannot be read or is something else.
    pub fn build(self) -> Result<RedbStore, RedbSetupError> {
        let Self { path, limits } = self;
        check(limits)?;
        let opened = (|| {
            let database = Database::builder().set_cache_size(CACHE).create(&path)?;
            sync_folder(&path).map_err(|error| NotOpened::Failed(error.into()))?;
            RedbStore::start(database, limits)
        })();
        opened.map_err(|cause| match cause {
            NotOpened::InUse => RedbSetupError::InUse(path),
            NotOpened::Newer(version) => RedbSetupError::Newer { path, version },
            NotOpened::Failed(source) => RedbSetupError::Failed { path, source },
        })
    }
}

fn check(limits: Limits) -> Result<(), ConfigError> {
    ConfigError::require_nonzero("max_records", limits.records)?;
    let payload = ConfigError::require_nonzero("max_payload", limits.payload)?;
    if payload > LARGEST_PAYLOAD {
        return Err(ConfigError::new("max_payload", payload, "it must be at most 1 GiB"));
    }
    Ok(())
}

/// Makes the name of a new file durable too: without it power loss may take the whole file.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::File::open(folder)?.sync_all()
}

/// Settles what the last process left, in one transaction, and finds out what time it is.
fn recover(database: &Database, limits: Limits) -> Result<Clock, NotOpened> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let mut tables = Tables::open(&transaction, limits)?;
    let clock = Clock::not_before(tables.seen());
    tables.set_now(clock.now());
    tables.orphan()?;
    tables.finish()?;
    transaction.commit()?;
    Ok(clock)
}

/// Why a file was not opened, without its name.
pub(crate) enum NotOpened {
    InUse,
    Newer(u16),
    Failed(BoxError),
}

impl<E: Into<redb::Error>> From<E> for NotOpened {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            error => Self::Failed(error.into()),
        }
    }
}

impl From<Failure> for NotOpened {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(StoreError::Newer(version)) => Self::Newer(version),
            failure => Self::Failed(failure.into_broken().into()),
        }
    }
}
