//! A PostgreSQL server of one's own, in a temporary folder, for tests and examples.
//!
//! Included with `#[path]`; uses nothing but the standard library.

#![allow(dead_code, reason = "whoever includes this file uses a part of it")]

use std::{
    env, fs,
    io::{Error, ErrorKind, Result},
    net::{Ipv4Addr, TcpListener},
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio, id},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a server may take to come up, or its processes to go.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

/// A running server. It is stopped, and its folder removed, when it is dropped.
#[derive(Debug)]
pub(crate) struct PostgresServer {
    programs: PathBuf,
    folder: Folder,
    port: u16,
    settings: Vec<String>,
    postmaster: Option<Child>,
}

impl PostgresServer {
    /// Starts a server on a free port of the loopback address.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a server with settings such as `fsync=off`.
    pub(crate) fn start_with(settings: &[&str]) -> Result<Self> {
        let programs = find_programs()?;
        let folder = Folder::new()?;
        let mut settings: Vec<String> =
            settings.iter().map(|&setting| setting.to_owned()).collect();
        if has_statistics(&programs) {
            settings.push("shared_preload_libraries=pg_stat_statements".to_owned());
        }
        let mut initdb = folder.command(&programs.join("initdb"))?;
        initdb.args(["--no-sync", "--no-locale", "--encoding=UTF8"]);
        initdb.args(["--auth=trust", "--username=postgres", "--pgdata"]).arg(folder.data());
        if !initdb.status()?.success() {
            return Err(Error::other(format!("initdb failed: {}", folder.log())));
        }
        let mut server = Self { programs, folder, port: 0, settings, postmaster: None };
        let mut tries = 3;
        loop {
            server.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            match server.restart() {
                // Somebody else may have taken the port since.
                Err(_) if tries > 1 => tries -= 1,
                started => return started.map(|()| server),
            }
        }
    }

    /// Where the server is.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts the server again, where it was, and waits until it can be used.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let begun = Instant::now();
        let mut postgres = self.folder.command(&self.programs.join("postgres"))?;
        postgres.arg("-D").arg(self.folder.data());
        postgres.args(["-p", &self.port.to_string()]);
        // Without a socket in the file system there is no lock file of one, which could outlive the server.
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=on"] {
            postgres.args(["-c", setting]);
        }
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        let mut postmaster = postgres.spawn()?;
        loop {
            if postmaster.try_wait()?.is_some() {
                return Err(Error::other(format!("the server ended: {}", self.folder.log())));
            }
            let mut ready = self.folder.command(&self.programs.join("pg_isready"))?;
            ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            if ready.status()?.success() {
                self.postmaster = Some(postmaster);
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                postmaster.kill()?;
                postmaster.wait()?;
                return Err(Error::new(ErrorKind::TimedOut, self.folder.log()));
            }
            sleep(GLANCE);
        }
    }

    /// Kills all processes of the server (`kill -9`), and waits until they are gone: until then its folder is locked.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let Some(mut postmaster) = self.postmaster.take() else { return Ok(()) };
        // Stopped, it starts no process between the look and the kill.
        signal("STOP", &[postmaster.id()])?;
        let children = children_of(postmaster.id())?;
        signal("KILL", &[postmaster.id()])?;
        signal("KILL", &children)?;
        postmaster.wait()?;
        let begun = Instant::now();
        while children.iter().any(|&child| is_alive(child)) {
            if begun.elapsed() > PATIENCE {
                return Err(Error::new(ErrorKind::TimedOut, "the server's processes do not end"));
            }
            sleep(GLANCE);
        }
        Ok(())
    }

    /// Stops all processes of the server where they are.
    pub(crate) fn pause(&self) -> Result<()> {
        let Some(postmaster) = &self.postmaster else { return Ok(()) };
        signal("STOP", &[postmaster.id()])?;
        signal("STOP", &children_of(postmaster.id())?)
    }

    /// Lets a paused server go on.
    pub(crate) fn resume(&self) -> Result<()> {
        let Some(postmaster) = &self.postmaster else { return Ok(()) };
        signal("CONT", &children_of(postmaster.id())?)?;
        signal("CONT", &[postmaster.id()])
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Whoever drops it has no use for the error.
        let _ = self.kill();
    }
}

/// Where the programs of the newest version are.
fn find_programs() -> Result<PathBuf> {
    let is_complete = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_isready"].iter().all(|program| folder.join(program).is_file())
    };
    // Debian keeps each version in a folder of its own, outside the PATH.
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    versions.sort_unstable();
    let path = env::var_os("PATH").unwrap_or_default();
    versions
        .into_iter()
        .rev()
        .map(|(_, folder)| folder)
        .chain(env::split_paths(&path))
        .find(is_complete)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "there is no PostgreSQL server here: install it with `apt-get install postgresql`",
            )
        })
}

fn has_statistics(programs: &Path) -> bool {
    let pg_config = Command::new(programs.join("pg_config")).arg("--pkglibdir").output();
    let beside = programs.join("../lib/pg_stat_statements.so");
    let told = pg_config.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    beside.is_file()
        || told
            .is_some_and(|folder| Path::new(folder.trim()).join("pg_stat_statements.so").is_file())
}

/// The folder of a server, and the user that it belongs to.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Whom the server runs as if we are root, as which it refuses to run.
    user: Option<(u32, u32)>,
}

impl Folder {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("buttress-postgres-{}-{}", id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::create_dir(&path)?;
        let mut folder = Self { path, user: None };
        if fs::metadata(&folder.path)?.uid() == 0 {
            let (user, group) = find_user()?;
            chown(&folder.path, Some(user), Some(group))?;
            folder.user = Some((user, group));
        }
        Ok(folder)
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// A program of the server, whose output goes to the log.
    fn command(&self, program: &Path) -> Result<Command> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path.join("log"))?;
        let mut command = Command::new(program);
        command.current_dir(&self.path).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        Ok(command)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path.join("log")).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A user without privileges, and its group.
fn find_user() -> Result<(u32, u32)> {
    let number = |option: &str, user: &str| -> Option<u32> {
        let output = Command::new("id").args([option, user]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    ["postgres", "nobody"]
        .iter()
        .find_map(|user| Some((number("-u", user)?, number("-g", user)?)))
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no user `postgres` or `nobody`"))
}

/// Sends a signal. That a process is gone already is no error.
fn signal(name: &str, processes: &[u32]) -> Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    // The shell has a `kill` of its own, also where there is no program of that name.
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill \"$@\"", "sh", &format!("-{name}")]);
    shell.args(processes.iter().map(u32::to_string));
    shell.stdout(Stdio::null()).stderr(Stdio::null()).status().map(|_| ())
}

/// The state and the parent of a process, unless it is gone.
fn look(process: u32) -> Option<(char, u32)> {
    let status = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before may contain anything, brackets too.
    let mut fields = status.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children_of(parent: u32) -> Result<Vec<u32>> {
    let children = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&process| look(process).is_some_and(|(_, its)| its == parent))
        .collect();
    Ok(children)
}

/// Whether a process still has its folder open. One that nobody waits for stays listed, as a zombie.
fn is_alive(process: u32) -> bool {
    look(process).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}
