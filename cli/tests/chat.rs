//! Conversations through a pipe.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A plan of the fixture, which knows Llama's chat template and has random weights.
struct Built {
    folder: TempDir,
}

impl Built {
    fn new() -> Built {
        let built = Built { folder: tempfile::tempdir().unwrap() };
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama");
        let status = command().arg("build").arg(fixture).args(["--targets", "webgpu", "-o"]).arg(built.plan()).output();
        assert!(status.unwrap().status.success());
        built
    }

    fn plan(&self) -> PathBuf {
        self.folder.path().join("llama.weft")
    }

    /// What comes out when `input` is said.
    fn chat(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = command()
            .arg("chat")
            .arg(self.plan())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that has given up reads no more.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The answers as JSON.
    fn answers(&self, arguments: &[&str], input: &str) -> Vec<Value> {
        let output = self.chat(&[arguments, &["--json"]].concat(), input);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_compile-model"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const LONG: &str = "When does Rust call drop for a value that goes out of scope, and what happens to the fields of it?";

#[test]
fn a_conversation_keeps_its_rows() {
    let built = Built::new();
    let saved = built.folder.path().join("talk.json");
    let input = format!("{LONG}\n\nWhy?\n/save {}\n/reset\n{LONG}\n/quit\nnever said\n", saved.display());
    let answers = built.answers(&["-n", "6"], &input);
    assert_eq!(answers.len(), 3, "{answers:?}");
    let tokens = |i: usize| answers[i]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(1) < tokens(0) / 2, "only the new turn is computed: {answers:?}");
    assert_eq!(answers[0], answers[2], "after /reset all is as it was");
    assert_eq!(answers[0]["role"], "assistant");
    let talk: Vec<Value> = serde_json::from_str(&fs::read_to_string(saved).unwrap()).unwrap();
    let message = |role: &str, content: &Value| json!({ "role": role, "content": content });
    let (long, why) = (json!(LONG), json!("Why?"));
    let expected = [
        message("user", &long),
        message("assistant", &answers[0]["content"]),
        message("user", &why),
        message("assistant", &answers[1]["content"]),
    ];
    assert_eq!(talk, expected);
}

#[test]
fn what_is_not_said_to_the_model() {
    let built = Built::new();
    let plain = built.answers(&["-n", "4"], "Why?\n");
    // A system message, from the start or later, is a part of the prompt.
    let given = built.answers(&["-n", "4", "--system", "Be brief."], "Why?\n");
    let set = built.answers(&["-n", "4"], "/system Be brief.\nWhy?\n");
    assert!(given[0]["prompt_tokens"].as_u64() > plain[0]["prompt_tokens"].as_u64());
    assert_eq!(given, set);
    let output = built.chat(&["-n", "4"], "/help\n\"\"\"\nWhy?\n\"\"\"\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("/save FILE"), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim_end_matches('\n'), plain[0]["content"].as_str().unwrap().trim_end_matches('\n'));
}

#[test]
fn what_cannot_be_said_ends_a_pipe() {
    let built = Built::new();
    for (arguments, input, parts) in [
        (&[][..], "/frobnicate\n", &["no command /frobnicate", "/help"][..]),
        (&[], "/save\n", &["/save needs"]),
        (&[], "/save no/such/folder/talk.json\n", &["talk.json"]),
        (&["--context", "32"], &format!("{LONG}\n"), &["the context has room for 32", "/reset"]),
        (&["--context", "9999"], "", &["--context 9999", "2048 positions"]),
        (&["--top-p", "7"], "", &["top_p", "7"]),
    ] {
        let output = built.chat(arguments, input);
        assert_eq!(output.status.code(), Some(1), "{input}: {}", stderr(&output));
        parts.iter().for_each(|part| assert!(stderr(&output).contains(part), "{input}: {}", stderr(&output)));
    }
    // An answer that the context cuts off says so.
    let output = built.chat(&["--context", "32", "--ignore-eos"], "Why?\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("context is full: 32 of 32"), "{}", stderr(&output));
}
