//! The builder of a store, which checks the settings and opens the file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    thread,
};

use buttress::{BoxError, ConfigError, idempotency::StoreError};
use redb::{Database, Durability, backends::FileBackend};
use tokio::sync::mpsc;

use crate::{
    JoinOnDrop, RedbStore,
    backend::Flushed,
    clock::Clock,
    panic::caught,
    tables::{Failure, Limits, Tables},
    writer::{Disk, Writer},
};

/// The maximum number of waiting steps. Further claims are rejected, and other steps wait.
const QUEUE: usize = 1024;

/// The size of redb's cache. redb's own default is 1 GiB.
const CACHE: usize = 64 * 1024 * 1024;

/// The largest payload allowed. redb stores up to 3 GiB. Above that, its error would end the batch.
const LARGEST_PAYLOAD: usize = 1024 * 1024 * 1024;

/// A builder for a [`RedbStore`].
///
/// [`build`](Self::build) returns [`RedbSetupError::Config`] for an invalid setting.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedbStoreBuilder {
    path: PathBuf,
    limits: Limits,
}

/// The error returned when a file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedbSetupError {
    /// A setting of the builder is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file is open already, in this process or another.
    #[error(
        "{} is already open, in this process or another: one process at a time may use a file",
        .0.display()
    )]
    InUse(PathBuf),
    /// The file was written by a newer version of this crate.
    #[error("{} has layout {version}, which is newer than this program supports", .path.display())]
    Newer {
        /// The path of the file.
        path: PathBuf,
        /// The version of its layout.
        version: u16,
    },
    /// The file cannot be read or written, is damaged, or is not a file of records.
    #[error("{} cannot be opened: {source}", .path.display())]
    Failed {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

impl RedbStore {
    /// Opens a file, or creates it, with the defaults of the [builder](Self::builder).
    ///
    /// Blocks the thread until the whole file is checked. After a crash, this includes the time to
    /// repair it.
    ///
    /// # Errors
    ///
    /// Returns an error if:
    ///
    /// - the file is open already, in this process or another,
    /// - a newer version of this crate has written the file,
    /// - the file cannot be read or written, is damaged or empty, or is not a file of records.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RedbSetupError> {
        Self::builder(path).build()
    }

    /// Returns a builder for a store in the file at `path`.
    pub fn builder(path: impl AsRef<Path>) -> RedbStoreBuilder {
        let limits = Limits { records: 10_000_000, payload: 16 * 1024 * 1024 };
        RedbStoreBuilder { path: path.as_ref().to_owned(), limits }
    }

    /// Starts the thread, which uses the database on its disk.
    pub(crate) fn start(
        database: Database,
        mut disk: Disk,
        limits: Limits,
    ) -> Result<Self, NotOpened> {
        let clock = recover(&database, limits)?;
        let commits = Arc::<AtomicU64>::default();
        disk.database = Some(database);
        let writer = Writer { disk, clock, limits, commits: Arc::clone(&commits) };
        let (queue, steps) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("buttress-redb".into())
            .spawn(move || writer.run(steps))
            .map_err(|error| NotOpened::Failed(error.into()))?;
        Ok(Self { queue, commits, _thread: Arc::new(JoinOnDrop(Some(thread))) })
    }
}

impl RedbStoreBuilder {
    /// Sets the maximum number of records in the file.
    ///
    /// Default: `10_000_000`.
    ///
    /// It must be at least 1. Records whose time has ended count until they are
    /// [swept](buttress::idempotency::Store::sweep). At the maximum, a claim of a new key first
    /// sweeps up to 64 records. If there is still no room, it fails with [`StoreError::Full`].
    pub fn max_records(mut self, records: u64) -> Self {
        self.limits.records = records;
        self
    }

    /// Sets the maximum size of a result or a checkpoint, in bytes.
    ///
    /// Default: `16 MiB`.
    ///
    /// It must be between 1 byte and 1 GiB. A step with a larger payload, and a claim that reserves
    /// more, fail with [`StoreError::Full`].
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.limits.payload = bytes;
        self
    }

    /// Checks the settings, and opens the file or creates it.
    ///
    /// Blocks the thread until the whole file is checked. After a crash, this includes the time to
    /// repair it.
    ///
    /// # Errors
    ///
    /// Returns an error if:
    ///
    /// - a setting is invalid,
    /// - the file is open already, in this process or another,
    /// - a newer version of this crate has written the file,
    /// - the file cannot be read or written, is damaged or empty, or is not a file of records.
    pub fn build(self) -> Result<RedbStore, RedbSetupError> {
        let Self { path, limits } = self;
        check(limits)?;
        let opened = caught(|| {
            let flush_failed = Arc::default();
            let mut database = open(&path, true, &flush_failed)?;
            verify(&mut database)?;
            sync_folder(&path)?;
            let (again, failed) = (path.clone(), Arc::clone(&flush_failed));
            let again = Box::new(move || open(&again, false, &failed));
            RedbStore::start(database, Disk::new(again, flush_failed), limits)
        });
        let opened = opened.unwrap_or_else(|panicked| Err(panicked.into()));
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

/// Opens the file, and creates it if it does not exist and `create` is set.
fn open(path: &Path, create: bool, failed: &Arc<AtomicBool>) -> Result<Database, redb::Error> {
    refuse_empty(path)?;
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create(create).truncate(false).open(path)?;
    let backend = Flushed { backend: FileBackend::new(file)?, failed: Arc::clone(failed) };
    Ok(Database::builder().set_cache_size(CACHE).create_with_backend(backend)?)
}

/// Rejects an empty file. redb would begin a new database in it.
///
/// It was probably truncated, and all operations in it would run again.
fn refuse_empty(path: &Path) -> Result<(), io::Error> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() == 0 => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is empty: its records are lost. Remove it to begin without records",
        )),
        // If there is no file, it is created.
        _ => Ok(()),
    }
}

/// Checks the checksums of all pages. A damaged page may hide records, whose operations would run
/// again.
fn verify(database: &mut Database) -> Result<(), redb::Error> {
    match database.check_integrity()? {
        true => Ok(()),
        false => Err(redb::Error::Corrupted(
            "the last state failed its checksums, and the one before it was restored. The latest \
             records may be lost"
                .into(),
        )),
    }
}

/// Flushes the folder's entry of a new file. Without it, a power loss may remove the whole file.
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

/// Settles the records of the last process in one transaction, and returns the clock.
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

/// The reason why a file was not opened, without its path.
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
