//! The command, run inside the test process: numbers, JSON, messages, exit codes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod caches;
mod calibrate;
mod compare;
mod decoders;
mod explain;
mod profile;
mod quantized;
mod refusals;
mod report;
mod results;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;
use warpweft_tests::fixture;

/// What a command did.
struct Ran {
    code: u8,
    out: String,
    err: String,
}

impl Ran {
    /// Its one line of JSON.
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }

    /// Fails unless it failed with `code` and a message that says all `parts`.
    #[track_caller]
    fn refuses(&self, code: u8, parts: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        warpweft_tests::says(&self.err, parts);
        if code == 1 {
            let lines = self.err.lines().filter(|line| line.starts_with("error: ")).count();
            assert_eq!(lines, 1, "one line that says what is wrong: {}", self.err);
        }
    }
}

fn run(arguments: &[&str]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = ["compile-model"].iter().chain(arguments).copied();
    let code = compile_model::run(arguments, &mut out, &mut err);
    Ran { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// A folder with a plan in it.
struct Built {
    folder: TempDir,
}

impl Built {
    /// Compiles a checkpoint for the floor, which every adapter runs, with caches as exact as those of references.
    #[track_caller]
    fn of(checkpoint: &Path) -> Built {
        let built = Built { folder: tempfile::tempdir().unwrap() };
        let plan = built.plan();
        let ran = run(&["build", text(checkpoint), "-o", text(&plan), "--targets", "webgpu", "--cache", "f32"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        built
    }

    /// The same of a fixture, which is compiled once for all tests that ask for it.
    #[track_caller]
    fn of_fixture(name: &'static str) -> Built {
        static PLANS: Mutex<BTreeMap<&str, Vec<u8>>> = Mutex::new(BTreeMap::new());
        let known = PLANS.lock().unwrap().get(name).cloned();
        let Some(bytes) = known else {
            let built = Built::of(&fixture(name));
            PLANS.lock().unwrap().insert(name, fs::read(built.plan()).unwrap());
            return built;
        };
        let built = Built { folder: tempfile::tempdir().unwrap() };
        fs::write(built.plan(), bytes).unwrap();
        built
    }

    fn plan(&self) -> PathBuf {
        self.folder.path().join("model.weft")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `1,2,3`
fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn floats(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}
