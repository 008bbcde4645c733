//! Models of the Hugging Face Hub, of which a small server here plays the part.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";

/// Serves the files of a folder as `tiny/bert`; `tiny/private` and `tiny/gated` are refused, all else is unknown.
struct Hub {
    folder: PathBuf,
    /// Whether the next transfer of the weights breaks off halfway.
    breaks: AtomicBool,
    /// Path and first byte of what was asked for, and the token.
    asked: Mutex<Vec<(String, u64, Option<String>)>>,
}

impl Hub {
    fn start(folder: PathBuf) -> (Arc<Hub>, String) {
        let hub = Arc::new(Hub { folder, breaks: AtomicBool::new(false), asked: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = hub.clone();
        // Ends with the test's process.
        std::thread::spawn(move || listener.incoming().for_each(|stream| server.answer(&mut stream.unwrap())));
        (hub, address)
    }

    fn answer(&self, stream: &mut TcpStream) {
        let head: Vec<String> =
            BufReader::new(&*stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
        let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { return };
        let header = |name: &str| {
            let matching = |line: &&String| line.to_lowercase().starts_with(&format!("{name}: "));
            head.iter().find(matching).map(|line| line[name.len() + 2..].to_owned())
        };
        let range = header("range").unwrap_or_default();
        let (first, last) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
        let first: u64 = first.parse().unwrap();
        self.asked.lock().unwrap().push((path.to_owned(), first, header("authorization")));
        if path == "/api/models/tiny/bert/revision/main" {
            return send(stream, "200 OK", "", self.list().to_string().as_bytes());
        }
        let file = path.strip_prefix("/tiny/bert/resolve/main/").map(|file| self.folder.join(file));
        match (path, file.and_then(|file| fs::read(file).ok())) {
            (_, Some(bytes)) => self.send_file(stream, path, &bytes, first, last),
            (path, _) if path.contains("tiny/private") => send(stream, "401 Unauthorized", "", b"Invalid username"),
            (path, _) if path.contains("tiny/gated") => send(stream, "403 Forbidden", "", b"gated"),
            _ => send(stream, "404 Not Found", "", b"not found"),
        }
    }

    fn send_file(&self, stream: &mut TcpStream, path: &str, bytes: &[u8], first: u64, last: &str) {
        let size = bytes.len() as u64;
        if first >= size {
            return send(stream, "416 Range Not Satisfiable", "", b"");
        }
        let end = last.parse().map_or(size, |last: u64| last + 1).min(size);
        let name = path.rsplit('/').next().unwrap();
        let headers = format!(
            "ETag: \"etag-{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {first}-{}/{size}\r\n",
            path.len() * 1000 + name.len(),
            end - 1
        );
        let part = &bytes[first as usize..end as usize];
        if name == WEIGHTS && last.is_empty() && self.breaks.swap(false, Ordering::SeqCst) {
            let head = format!("HTTP/1.1 206 Partial Content\r\n{headers}Content-Length: {}\r\n\r\n", part.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&part[..part.len() / 2]).unwrap();
            return;
        }
        send(stream, "206 Partial Content", &headers, part);
    }

    fn list(&self) -> Value {
        let mut files = vec!["README.md".to_owned(), "onnx/model.onnx".to_owned()];
        for entry in fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match path.is_dir() {
                true => files.push(format!("{name}/config.json")),
                false => files.push(name),
            }
        }
        let siblings: Vec<Value> = files.iter().map(|file| json!({ "rfilename": file })).collect();
        json!({ "siblings": siblings, "sha": COMMIT })
    }

    /// The first bytes from which a file was asked for.
    fn offsets(&self, file: &str) -> Vec<u64> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(path, ..)| path.ends_with(file))
            .map(|(_, first, _)| *first)
            .collect()
    }
}

fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // A client may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// A home of its own for the caches.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn run(&self, endpoint: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_compile-model"));
        for proxy in
            ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_CACHE"]
        {
            command.env_remove(proxy);
        }
        let home = self.0.path();
        command.args(arguments).current_dir(home).env("HF_ENDPOINT", endpoint).env("HF_HOME", home.join("hf"));
        command.env("XDG_CACHE_HOME", home.join("caches")).env("HF_TOKEN", "hf_secret").output().unwrap()
    }

    fn blobs(&self) -> PathBuf {
        self.0.path().join("hf/hub/models--tiny--bert/blobs")
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/bert")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn json_of(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refuses(output: &Output, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{}", stderr(output));
    parts.iter().for_each(|part| assert!(stderr(output).contains(part), "{part}: {}", stderr(output)));
}

#[test]
fn a_model_is_downloaded_once() {
    let ((hub, endpoint), home) = (Hub::start(fixture()), Home::new());
    let pulled = json_of(&home.run(&endpoint, &["pull", "tiny/bert", "--json"]));
    assert_eq!((&pulled["commit"], &pulled["model"]), (&json!(COMMIT), &json!("tiny/bert")));
    assert_eq!(pulled["files"], pulled["downloaded"]);
    let folder = PathBuf::from(pulled["folder"].as_str().unwrap());
    for file in [WEIGHTS, "config.json", "tokenizer.json", "1_Pooling/config.json", "modules.json"] {
        assert_eq!(fs::read(folder.join(file)).unwrap(), fs::read(fixture().join(file)).unwrap(), "{file}");
    }
    assert!(!folder.join("reference.safetensors").exists() && !folder.join("README.md").exists());
    let tokens = hub.asked.lock().unwrap().iter().all(|(.., token)| token.as_deref() == Some("Bearer hf_secret"));
    assert!(tokens, "the token is sent");
    let again = json_of(&home.run(&endpoint, &["pull", "tiny/bert", "--json"]));
    assert_eq!((&again["downloaded"], &again["bytes"]), (&json!(0), &pulled["bytes"]));
    // Every command takes the name; the cache is enough, and so the network may be gone.
    let nowhere = "http://127.0.0.1:9";
    let by_name = json_of(&home.run(nowhere, &["embed", "tiny/bert", "--ids", "1,2,3", "--json"]));
    let by_path = json_of(&home.run(nowhere, &["embed", fixture().to_str().unwrap(), "--ids", "1,2,3", "--json"]));
    assert_eq!(by_name, by_path);
    let built =
        json_of(&home.run(nowhere, &["build", "tiny/bert", "-o", "bert.weft", "--targets", "webgpu", "--json"]));
    assert_eq!(built["model"]["name"], "bert");
    let people = home.run(&endpoint, &["pull", "tiny/bert"]);
    assert_eq!(String::from_utf8_lossy(&people.stdout).trim(), folder.to_str().unwrap());
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let ((hub, endpoint), home) = (Hub::start(fixture()), Home::new());
    hub.breaks.store(true, Ordering::SeqCst);
    let pulled = json_of(&home.run(&endpoint, &["pull", "tiny/bert", "--json"]));
    let size = fs::metadata(fixture().join(WEIGHTS)).unwrap().len();
    let offsets = hub.offsets(WEIGHTS);
    assert!(offsets.contains(&(size / 2)), "it goes on in the middle: {offsets:?}");
    let file = Path::new(pulled["folder"].as_str().unwrap()).join(WEIGHTS);
    assert_eq!(fs::read(file).unwrap(), fs::read(fixture().join(WEIGHTS)).unwrap());
    // What another process has left: a part of a file, or all of it that has not got its name.
    for kept in [size / 3, size] {
        let home = Home::new();
        fs::create_dir_all(home.blobs()).unwrap();
        let etag = "/tiny/bert/resolve/main/".len() + WEIGHTS.len();
        let part = home.blobs().join(format!("etag-{}.part", etag * 1000 + WEIGHTS.len()));
        fs::write(&part, &fs::read(fixture().join(WEIGHTS)).unwrap()[..kept as usize]).unwrap();
        let pulled = json_of(&home.run(&endpoint, &["pull", "tiny/bert", "--json"]));
        assert!(hub.offsets(WEIGHTS).contains(&kept), "{:?}", hub.offsets(WEIGHTS));
        let file = Path::new(pulled["folder"].as_str().unwrap()).join(WEIGHTS);
        assert_eq!(fs::read(file).unwrap(), fs::read(fixture().join(WEIGHTS)).unwrap());
        assert!(!part.exists());
    }
}

#[test]
fn models_that_cannot_be_had() {
    let ((_, endpoint), home) = (Hub::start(fixture()), Home::new());
    for (name, parts) in [
        ("tiny/nothing", &["no model tiny/nothing", "\"main\"", &endpoint, "hint: "][..]),
        ("tiny/private", &["tiny/private", "401", "HF_TOKEN", "hf auth login"]),
        ("tiny/gated", &["tiny/gated", "403", "accept the terms"]),
    ] {
        refuses(&home.run(&endpoint, &["pull", name]), parts);
        refuses(&home.run(&endpoint, &["embed", name, "--ids", "1"]), parts);
    }
    refuses(&home.run(&endpoint, &["pull", "tiny/bert", "--revision", "v9"]), &["tiny/bert", "\"v9\"", "--revision"]);
    let nowhere = home.run("http://127.0.0.1:9", &["pull", "tiny/bert"]);
    refuses(&nowhere, &["127.0.0.1:9", "list of files", "tiny/bert", "HF_ENDPOINT", "goes on where it stopped"]);
    let usage = home.run(&endpoint, &["pull", "bert"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(stderr(&usage).contains("Qwen/Qwen3-0.6B"), "{}", stderr(&usage));
    let unsafe_weights = tempfile::tempdir().unwrap();
    fs::write(unsafe_weights.path().join("config.json"), "{}").unwrap();
    fs::write(unsafe_weights.path().join("pytorch_model.bin"), "x").unwrap();
    let (_, endpoint) = Hub::start(unsafe_weights.path().to_owned());
    refuses(&home.run(&endpoint, &["pull", "tiny/bert"]), &["no model.safetensors", "pytorch_model.bin", "hint: "]);
}
