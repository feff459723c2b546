//! The stores of the campaign, and how to start, kill, pause and find them.

use std::{io, path::Path};

use test_servers::{PostgresServer, RedisServer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Redb,
    Redis,
    Postgres,
    /// No idempotency layer. The campaign must find its double executions.
    Unguarded,
}

impl Kind {
    pub(crate) const STORES: [Self; 3] = [Self::Redb, Self::Redis, Self::Postgres];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redb => "redb",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Unguarded => "unguarded",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::STORES.into_iter().chain([Self::Unguarded]).find(|kind| kind.name() == name)
    }

    /// Returns the number of workers. A file of redb belongs to one process.
    pub(crate) fn workers(self) -> usize {
        match self {
            Self::Redb | Self::Unguarded => 1,
            Self::Redis | Self::Postgres => 3,
        }
    }
}

/// A store with its own server, or inside its only worker.
#[derive(Debug)]
pub(crate) enum Server {
    Inside,
    Redis(RedisServer),
    Postgres(PostgresServer),
}

impl Server {
    pub(crate) fn start(kind: Kind) -> io::Result<Self> {
        Ok(match kind {
            Kind::Redb | Kind::Unguarded => Self::Inside,
            // Appends everything, and flushes each write before the response, unless configured
            // otherwise.
            Kind::Redis => Self::Redis(RedisServer::start(&[])?),
            Kind::Postgres => Self::Postgres(PostgresServer::start()?),
        })
    }

    /// Returns the address or path by which a worker finds the store.
    pub(crate) fn place(&self, folder: &Path) -> String {
        match self {
            Self::Inside => folder.join("records.redb").to_string_lossy().into_owned(),
            Self::Redis(server) => server.url(),
            Self::Postgres(server) => server.url(),
        }
    }

    pub(crate) fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Inside => Ok(()),
            Self::Redis(server) => server.kill(),
            Self::Postgres(server) => server.kill(),
        }
    }

    pub(crate) fn restart(&mut self) -> io::Result<()> {
        match self {
            Self::Inside => Ok(()),
            Self::Redis(server) => server.restart(),
            Self::Postgres(server) => server.restart(),
        }
    }

    pub(crate) fn pause(&self) -> io::Result<()> {
        match self {
            Self::Inside => Ok(()),
            Self::Redis(server) => server.pause(),
            Self::Postgres(server) => server.pause(),
        }
    }

    pub(crate) fn resume(&self) -> io::Result<()> {
        match self {
            Self::Inside => Ok(()),
            Self::Redis(server) => server.resume(),
            Self::Postgres(server) => server.resume(),
        }
    }
}
