//! A browser without a window, driven over the WebDriver protocol.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// A session of Chromium. It ends when it is dropped, with all processes that it started.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: PathBuf,
}

impl Browser {
    /// Starts Chromium with an empty profile.
    pub(crate) fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("buttress-admin-{}-{number}", std::process::id());
        let profile = env::temp_dir().join(name);
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the packages chromium and chromium-driver, which .ci/run installs");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let mut ports = lines.map_while(Result::ok).filter_map(|line| {
            let (_, port) = line.split_once("successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let port = ports.next().expect("the port of chromedriver");
        let mut browser = Self { driver, port, session: String::new(), profile };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-sync",
            &format!("--user-data-dir={}", browser.profile.display()),
        ];
        let wanted = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let body = json!({ "capabilities": { "alwaysMatch": wanted } });
        let session = browser.send("POST", "/session", &body);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, value) = exchange(self.port, method, path, body).expect("chromedriver");
        assert_eq!(status, 200, "{method} {path}: {value}");
        value
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.send("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// Sends a command of the protocol of the developer tools.
    pub(crate) fn tools(&self, command: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Sets the size of the page. A window cannot be this narrow.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.tools("Emulation.setDeviceMetricsOverride", &size);
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Runs a script in the page, and returns its value.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Runs a script until its value is true. `what` is the text of a failure.
    pub(crate) fn wait(&self, what: &str, script: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.run(script) != true {
            if Instant::now() > end {
                let text = self.run("return document.body.innerText");
                panic!("{what} did not happen. The page:\n{}", text.as_str().unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Clicks as a person does. A click by a script would also reach what is hidden.
    pub(crate) fn click(&self, script: &str) {
        let element = self.run(script);
        let id = element.as_object().and_then(|it| it.values().next()?.as_str());
        let id = id.unwrap_or_else(|| panic!("no element: {script}"));
        self.post(&format!("/element/{id}/click"), &json!({}));
    }

    /// Returns the messages of the console since the last call, and the problems of pages.
    pub(crate) fn console(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().into_iter().flatten();
        lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Returns the addresses that pages of this server asked for since the last call.
    pub(crate) fn requests(&self, server: &str) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "performance" }));
        let lines = log.as_array().into_iter().flatten();
        let messages =
            lines.filter_map(|line| serde_json::from_str::<Value>(line["message"].as_str()?).ok());
        let sent = messages.filter(|it| it["message"]["method"] == "Network.requestWillBeSent");
        sent.filter_map(|it| {
            let sent = &it["message"]["params"];
            let is_of_page = sent["documentURL"].as_str()?.starts_with(server);
            is_of_page.then(|| sent["request"]["url"].as_str().unwrap_or_default().to_owned())
        })
        .collect()
    }

    /// Takes a picture of the page at this width, down to the end of an element, and returns it as
    /// PNG.
    pub(crate) fn picture(&self, width: u32, until: &str) -> Vec<u8> {
        let height = self.run("return document.documentElement.scrollHeight").as_u64().unwrap();
        self.resize(width, u32::try_from(height).unwrap());
        // The chart is drawn again for the size.
        self.wait("a frame", "return document.readyState === 'complete'");
        thread::sleep(Duration::from_millis(300));
        let bottom = format!("document.querySelector('{until}').getBoundingClientRect().bottom");
        let height = self.run(&format!("return Math.ceil({bottom})"));
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let parameters = json!({ "format": "png", "clip": clip });
        let picture = self.tools("Page.captureScreenshot", &parameters);
        base64(picture["data"].as_str().unwrap())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends the browser. Killing the driver alone would leave it behind.
        let path = format!("/session/{}", self.session);
        _ = exchange(self.port, "DELETE", &path, &Value::Null);
        _ = self.driver.kill();
        _ = self.driver.wait();
        _ = fs::remove_dir_all(&self.profile);
    }
}

/// Sends a request to the driver, and returns the status and the value of the response.
fn exchange(port: u16, method: &str, path: &str, body: &Value) -> std::io::Result<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length, mut line) = (0, 0, String::new());
    while reader.read_line(&mut line)? > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        } else if let Some(value) = lower.strip_prefix("http/1.1 ") {
            status = value.get(..3).and_then(|it| it.parse().ok()).unwrap_or_default();
        }
        line.clear();
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    let mut document: Value = serde_json::from_slice(&bytes)?;
    Ok((status, document["value"].take()))
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|it| DIGITS.iter().position(|digit| *digit == it));
    let digits: Vec<_> = digits.collect();
    let bytes = digits.chunks(4).flat_map(|chunk| {
        let bits =
            chunk.iter().fold(0, |bits, digit| (bits << 6) | digit) << (6 * (4 - chunk.len()));
        [bits >> 16, bits >> 8, bits].into_iter().map(|it| (it & 255) as u8).take(chunk.len() - 1)
    });
    bytes.collect()
}
