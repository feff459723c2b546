//! Prometheus and its tool.

use std::{
    env, fs,
    io::{Error, ErrorKind, Read, Result, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

const STARTS_WITHIN: Duration = Duration::from_secs(30);
const GLANCE: Duration = Duration::from_millis(20);

/// Returns the path of `prometheus` or `promtool`.
///
/// They are installed, or `.ci/prometheus.sh` has unpacked the package of Debian into
/// `target/prometheus`.
///
/// # Errors
///
/// Returns an error if there is no such program.
pub fn program(name: &str) -> Result<PathBuf> {
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/prometheus/usr/bin");
    let installed = env::var_os("PATH").unwrap_or_default();
    let folders = [PathBuf::from(unpacked)].into_iter().chain(env::split_paths(&installed));
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let hint = ".ci/prometheus.sh";
        Error::new(ErrorKind::NotFound, format!("there is no {name}; run: {hint}"))
    })
}

/// Checks a text of metrics with `promtool check metrics`, and returns what it prints.
///
/// # Errors
///
/// Returns an error with the output if promtool cannot read the text, or is not there.
pub fn check_metrics(text: &str) -> Result<String> {
    let mut tool = Command::new(program("promtool")?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = tool.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    let output = tool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    // 3 is for advice about names.
    match output.status.code() {
        Some(0 | 3) => Ok(said),
        _ => Err(Error::other(said)),
    }
}

/// A running Prometheus, which is killed and whose folder is removed when it is dropped.
#[derive(Debug)]
pub struct PrometheusServer {
    folder: PathBuf,
    address: SocketAddr,
    child: Child,
}

impl PrometheusServer {
    /// Starts a server that scrapes a path of an address every second.
    ///
    /// # Errors
    ///
    /// Returns an error if Prometheus is not there, or does not start.
    pub fn scraping(target: SocketAddr, path: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("buttress-prometheus-{}-{count}", process::id()));
        fs::create_dir_all(&folder)?;
        let config = format!(
            "scrape_configs:\n- job_name: test\n  scrape_interval: 1s\n  \
             scrape_timeout: 1s\n  metrics_path: {path}\n  \
             static_configs: [{{targets: ['{target}']}}]\n"
        );
        fs::write(folder.join("prometheus.yml"), config)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = spawn(&folder, address).inspect_err(|_| _ = fs::remove_dir_all(&folder))?;
        let mut server = Self { folder, address, child };
        let begun = Instant::now();
        while server.get("/-/ready").is_err() {
            if begun.elapsed() > STARTS_WITHIN || server.child.try_wait()?.is_some() {
                let log = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
                return Err(Error::other(format!("Prometheus is not up: {log}")));
            }
            thread::sleep(GLANCE);
        }
        Ok(server)
    }

    /// Returns the body of the response to a GET request.
    ///
    /// # Errors
    ///
    /// Returns an error if the response is not a 200.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut connection = TcpStream::connect(self.address)?;
        // A response of HTTP/1.0 has no chunks.
        write!(connection, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut response = String::new();
        connection.read_to_string(&mut response)?;
        match response.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
            _ => Err(Error::other(response)),
        }
    }

    /// Returns the body of the response to a query, as soon as it has a result.
    ///
    /// # Errors
    ///
    /// Returns an error if the query is wrong, or has no result after some time.
    pub fn query(&self, query: &str) -> Result<String> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let begun = Instant::now();
        loop {
            let body = self.get(&format!("/api/v1/query?query={escaped}"))?;
            if !body.contains("\"result\":[]") {
                return Ok(body);
            }
            if begun.elapsed() > STARTS_WITHIN {
                let targets = self.get("/api/v1/targets")?;
                return Err(Error::other(format!("{query} has no result: {targets}")));
            }
            thread::sleep(GLANCE);
        }
    }
}

fn spawn(folder: &Path, address: SocketAddr) -> Result<Child> {
    let log = fs::File::create(folder.join("log"))?;
    Command::new(program("prometheus")?)
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
}

impl Drop for PrometheusServer {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        _ = fs::remove_dir_all(&self.folder);
    }
}
