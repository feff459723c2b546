//! Redis.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The settings that keep an acknowledged record when the server is killed.
const SETTINGS: [(&str, &str); 4] = [
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("maxmemory-policy", "noeviction"),
    ("save", ""),
];

/// The time limit for a start, which includes loading the data.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A running Redis server, which is killed and whose folder is removed when it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    folder: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    child: Child,
}

impl RedisServer {
    /// Starts a server that keeps acknowledged writes, unless a setting overrides this.
    ///
    /// It accepts commands when this method returns.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no `redis-server`, or it does not start.
    pub fn start(settings: &[(&str, &str)]) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("buttress-redis-{}-{count}", process::id()));
        fs::create_dir_all(&folder)?;
        let settings: Vec<_> = SETTINGS
            .iter()
            .filter(|(name, _)| settings.iter().all(|(other, _)| other != name))
            .chain(settings)
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // Another process may take the port before the server starts.
        let mut tries = 0;
        loop {
            tries += 1;
            let port = free_port()?;
            match spawn(&folder, port, &settings) {
                Ok(child) => return Ok(Self { folder, port, settings, child }),
                Err(error) if tries == 5 || error.kind() == io::ErrorKind::NotFound => {
                    let _ = fs::remove_dir_all(&folder);
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    /// Returns the address of the server.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills the server with `kill -9`. It has ended when this method returns.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts the server again with the data that it has written, after a [`kill`](Self::kill).
    ///
    /// # Errors
    ///
    /// Returns an error if it does not start.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.child = spawn(&self.folder, self.port, &self.settings)?;
        Ok(())
    }

    /// Pauses the server. It does not respond, but keeps its connections.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be signalled.
    pub fn pause(&self) -> io::Result<()> {
        self.signal("-STOP")
    }

    /// Resumes the server.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be signalled.
    pub fn resume(&self) -> io::Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> io::Result<()> {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status()?;
        match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("kill {signal}: {status}"))),
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns a free port that leaves room for a cluster node's second port, 10,000 above it.
fn free_port() -> io::Result<u16> {
    loop {
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if port <= u16::MAX - 10_000 {
            return Ok(port);
        }
    }
}

fn spawn(folder: &PathBuf, port: u16, settings: &[(String, String)]) -> io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--daemonize", "no", "--logfile", "server.log", "--dir"]).arg(folder);
    for (name, value) in settings {
        command.arg(format!("--{name}")).arg(value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            error.kind(),
            "there is no `redis-server`; install it with `apt-get install redis-server`",
        ),
        _ => error,
    })?;
    match wait_until_it_answers(&mut child, port) {
        Ok(()) => Ok(child),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            let log = fs::read_to_string(folder.join("server.log")).unwrap_or_default();
            Err(io::Error::other(format!("redis-server does not start: {error}\n{log}")))
        }
    }
}

fn wait_until_it_answers(child: &mut Child, port: u16) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("it ended with {status}")));
        }
        match answers(port) {
            Ok(true) => return Ok(()),
            _ if begun.elapsed() > STARTS_WITHIN => {
                return Err(io::Error::other(format!("no answer within {STARTS_WITHIN:?}")));
            }
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Returns whether it accepts commands. It does not while it loads its data.
fn answers(port: u16) -> io::Result<bool> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG")
}
