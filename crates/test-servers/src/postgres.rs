//! PostgreSQL.

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
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

/// The time limit for a server to start, or for its processes to end.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

/// A running server, which is stopped and whose folder is removed when it is dropped.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    folder: Folder,
    port: u16,
    settings: Vec<String>,
    postmaster: Option<Child>,
}

impl PostgresServer {
    /// Starts a server on a free port of the loopback address.
    ///
    /// # Errors
    ///
    /// Returns an error if PostgreSQL is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Returns a server for all tests of a process, as long as one of them has it.
    ///
    /// A test that pauses, changes or stops its server must start one of its own.
    ///
    /// # Errors
    ///
    /// Returns an error if PostgreSQL is not installed, or does not start.
    pub fn shared() -> Result<Arc<Self>> {
        static SERVER: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
        let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.upgrade() {
            Some(server) => Ok(server),
            None => {
                let server = Arc::new(Self::start()?);
                *shared = Arc::downgrade(&server);
                Ok(server)
            }
        }
    }

    /// Starts a server with settings such as `fsync=off`.
    ///
    /// # Errors
    ///
    /// Returns an error if PostgreSQL is not installed, or does not start.
    pub fn start_with(settings: &[&str]) -> Result<Self> {
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
                // Another process may have taken the port in the meantime.
                Err(_) if tries > 1 => tries -= 1,
                started => return started.map(|()| server),
            }
        }
    }

    /// Returns the address of the server.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts the server again on the same port and folder, and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let mut postgres = self.folder.command(&self.programs.join("postgres"))?;
        postgres.arg("-D").arg(self.folder.data());
        postgres.args(["-p", &self.port.to_string()]);
        // Without a socket in the file system there is no lock file that could outlive the server.
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=on"] {
            postgres.args(["-c", setting]);
        }
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        self.postmaster = Some(postgres.spawn()?);
        let started = self.wait_until_ready();
        if started.is_err() {
            self.kill()?;
        }
        started
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let ended = match &mut self.postmaster {
                Some(postmaster) => postmaster.try_wait()?.is_some(),
                None => true,
            };
            if ended || begun.elapsed() > PATIENCE {
                return Err(Error::other(format!("the server is not up: {}", self.folder.log())));
            }
            let mut ready = self.folder.command(&self.programs.join("pg_isready"))?;
            ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            if ready.status()?.success() {
                return Ok(());
            }
            sleep(GLANCE);
        }
    }

    /// Kills all processes of the server (`kill -9`), and waits until they have ended.
    ///
    /// Until then, the folder of the server is locked.
    ///
    /// # Errors
    ///
    /// Returns an error if the processes cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut postmaster) = self.postmaster.take() else { return Ok(()) };
        let children = stop(postmaster.id());
        signal("KILL", &[postmaster.id()])?;
        postmaster.wait()?;
        let children = children?;
        signal("KILL", &children)?;
        wait_until(|| {
            Ok(!processes()?.iter().any(|its| children.contains(&its.id) && its.is_alive()))
        })
    }

    /// Pauses all processes of the server.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be signalled.
    pub fn pause(&self) -> Result<()> {
        let Some(postmaster) = &self.postmaster else { return Ok(()) };
        signal("STOP", &stop(postmaster.id())?)
    }

    /// Resumes a paused server.
    ///
    /// # Errors
    ///
    /// Returns an error if its processes cannot be signalled.
    pub fn resume(&self) -> Result<()> {
        let Some(postmaster) = &self.postmaster else { return Ok(()) };
        signal("CONT", &children_of(postmaster.id())?)?;
        signal("CONT", &[postmaster.id()])
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // The caller of `drop` cannot handle the error.
        let _ = self.kill();
    }
}

/// Returns the folder with the programs of the newest version.
fn find_programs() -> Result<PathBuf> {
    let is_complete = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_isready"].iter().all(|program| folder.join(program).is_file())
    };
    // Debian keeps each version in a separate folder, outside the PATH.
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

/// The folder of a server, and the user that owns it.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// The user to run the server as if this process is root. PostgreSQL does not run as root.
    user: Option<(u32, u32)>,
}

impl Folder {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("buttress-postgres-{}-{count}", id()));
            match fs::create_dir(&path) {
                // Left by a killed process that had the same process id.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => break made.map(|()| path)?,
            }
        };
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

    /// Returns a command for a program of the server, with its output in the log.
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

/// Returns an unprivileged user and its group.
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

/// Sends a signal. It is not an error if a process has ended already.
fn signal(name: &str, processes: &[u32]) -> Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    // The shell has its own `kill`, even where there is no such program.
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill \"$@\"", "sh", &format!("-{name}")]);
    shell.args(processes.iter().map(u32::to_string));
    shell.stdout(Stdio::null()).stderr(Stdio::null()).status().map(|_| ())
}

/// Pauses a process and returns its children. A paused process starts no more children.
fn stop(process: u32) -> Result<Vec<u32>> {
    signal("STOP", &[process])?;
    // The signal takes effect only some time after it was sent.
    wait_until(|| {
        Ok(!processes()?.iter().any(|its| its.id == process && its.is_alive() && its.state != 'T'))
    })?;
    children_of(process)
}

fn wait_until(mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(ErrorKind::TimedOut, "the server's processes do not obey"));
        }
        sleep(GLANCE);
    }
    Ok(())
}

struct Process {
    id: u32,
    parent: u32,
    state: char,
}

impl Process {
    /// Returns whether it may still use its folder.
    ///
    /// A process that its parent does not wait for stays listed as a zombie.
    fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

fn children_of(parent: u32) -> Result<Vec<u32>> {
    let of_parent = |process: &Process| (process.parent == parent).then_some(process.id);
    Ok(processes()?.iter().filter_map(of_parent).collect())
}

/// Lists all processes: from `/proc` on Linux, where `ps` may be missing, otherwise from `ps`.
fn processes() -> Result<Vec<Process>> {
    if let Ok(entries) = fs::read_dir("/proc") {
        return Ok(entries.flatten().filter_map(|entry| read_process(&entry.path())).collect());
    }
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid=,stat="]).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let processes = listed.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        Some(Process {
            id: fields.next()?.parse().ok()?,
            parent: fields.next()?.parse().ok()?,
            state: fields.next()?.chars().next()?,
        })
    });
    Ok(processes.collect())
}

fn read_process(folder: &Path) -> Option<Process> {
    let id = folder.file_name()?.to_str()?.parse().ok()?;
    let status = fs::read_to_string(folder.join("stat")).ok()?;
    // The name before the state may contain any character, even brackets.
    let mut fields = status.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Process { id, parent: fields.next()?.parse().ok()?, state })
}
