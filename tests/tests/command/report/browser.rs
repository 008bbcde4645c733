//! A headless Chromium that keeps account of what a page does.
//!
//! It is told what to do in the protocol of its developer tools, through a pipe: JSON texts, each ended by a zero byte. The
//! crates that speak that protocol bring a TLS stack and a few megabytes of generated code into every build.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The names under which Chromium is looked for.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// How long one thing may take: much more than it does, because tests run side by side.
const PATIENCE: Duration = Duration::from_secs(120);

/// The Chromium that `CHROMIUM` names, or the first in the path.
fn chromium() -> PathBuf {
    if let Some(given) = std::env::var_os("CHROMIUM").filter(|given| !given.is_empty()) {
        return given.into();
    }
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let found = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|p| p.exists());
    found.unwrap_or_else(|| {
        panic!(
            "no Chromium: none of {} is in the path. `make test` installs Debian's; or run scripts/chromium.sh, or name one \
             in CHROMIUM",
            NAMES.join(", ")
        )
    })
}

/// A page that is open.
pub(crate) struct Page {
    process: Child,
    commands: ChildStdin,
    answers: Receiver<Value>,
    calls: u64,
    /// What names the page's tab.
    session: Value,
    /// Errors, and whatever else the page wrote to the console.
    complaints: Vec<String>,
    /// Addresses that were asked for.
    requests: Vec<String>,
    address: String,
    // Removed in the end.
    _profile: TempDir,
}

impl Drop for Page {
    fn drop(&mut self) {
        // It ends by itself when its pipe is closed; a profile that is still in use could not be removed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Page {
    /// Opens a file and waits until the page says that it is drawn.
    #[track_caller]
    pub(crate) fn open(file: &Path, hash: &str) -> Page {
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads commands from 3 and answers on 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2"])
            .arg(chromium())
            .args(["--headless", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars"])
            // The sandbox needs rights that containers and root don't have; the page is our own.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-default-apps"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let commands = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for text in output.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&text).unwrap_or_default();
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut page = Page {
            process,
            commands,
            answers,
            calls: 0,
            session: Value::Null,
            complaints: Vec::new(),
            requests: Vec::new(),
            address: format!("file://{}", file.display()),
            _profile: profile,
        };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        page.session =
            page.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}))["sessionId"].clone();
        for domain in ["Runtime", "Log", "Network", "Page"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.prefers(1440, "light");
        let url = format!("{}{hash}", page.address);
        page.call("Page.navigate", json!({"url": url}));
        page.wait("document.documentElement?.dataset.ready === 'true'");
        page
    }

    /// Asks for something and waits for the answer.
    #[track_caller]
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": parameters});
        if !self.session.is_null() {
            call["sessionId"] = self.session.clone();
        }
        self.commands.write_all(format!("{call}\0").as_bytes()).unwrap();
        let start = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let message = self.answers.recv_timeout(left).unwrap_or_else(|e| panic!("{method}: Chromium: {e}"));
            if message["id"] == self.calls {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.hear(&message);
        }
    }

    fn hear(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.complaints.push(parameters["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" => self.complaints.push(parameters["args"].to_string()),
            "Log.entryAdded" => self.complaints.push(parameters["entry"].to_string()),
            "Network.requestWillBeSent" => {
                self.requests.push(parameters["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }

    /// The value of an expression.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let found = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(found["exceptionDetails"].is_null(), "{expression}: {}", found["exceptionDetails"]);
        found["result"]["value"].clone()
    }

    #[track_caller]
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let found = self.value(&format!("document.querySelector({})?.textContent", json!(selector)));
        found.as_str().unwrap_or_else(|| panic!("nothing is {selector}")).to_owned()
    }

    /// How many elements there are.
    #[track_caller]
    pub(crate) fn count(&mut self, selector: &str) -> u64 {
        self.value(&format!("document.querySelectorAll({}).length", json!(selector))).as_u64().unwrap()
    }

    /// Presses the first element with the mouse, where people see it.
    #[track_caller]
    pub(crate) fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const e = document.querySelector({}); if (!e) return null; e.scrollIntoView({{ block: 'center' }}); \
             const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()",
            json!(selector)
        ));
        let [x, y] = [&place[0], &place[1]];
        assert!(x.is_number() && y.is_number(), "nothing is {selector}");
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    #[track_caller]
    pub(crate) fn press(&mut self, key: &str, text: &str) {
        self.call("Input.dispatchKeyEvent", json!({"type": "keyDown", "key": key, "text": text}));
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn wait(&mut self, expression: &str) {
        let start = Instant::now();
        while self.value(expression) != Value::Bool(true) {
            assert!(start.elapsed() < PATIENCE, "{expression} did not become true; {:#?}", self.complaints);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a reader has: a window of that width, and a wish for light or dark.
    #[track_caller]
    pub(crate) fn prefers(&mut self, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", scheme);
    }

    /// Fails if the page complained, or asked for anything but itself.
    #[track_caller]
    pub(crate) fn is_quiet(&mut self) {
        // Whatever was said before this is answered has been heard.
        self.value("0");
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
        assert!(!self.requests.is_empty(), "nothing was listened to");
        let own = |url: &&String| !url.starts_with(&self.address) && *url != "data:," && *url != "about:blank";
        assert_eq!(self.requests.iter().filter(own).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}
