//! Where the time goes: tables and traces.

use std::fs;

use serde_json::Value;

use crate::{Built, run, text};

/// An event with a beginning and an end, in microseconds.
struct Span {
    track: u64,
    category: String,
    start: f64,
    end: f64,
}

/// The spans of a trace, after a check that each event is complete.
fn spans(trace: &Value) -> Vec<Span> {
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().filter(|e| e["ph"] == "M" && e["name"] == "thread_name").count() == 2);
    let complete = events.iter().filter(|e| e["ph"] != "M").map(|event| {
        assert_eq!(event["ph"], "X", "{event}");
        assert!(!event["name"].as_str().unwrap().is_empty() && event["pid"] == 1, "{event}");
        let (start, length) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
        assert!(start >= 0.0 && length >= 0.0, "{event}");
        let category = event["cat"].as_str().unwrap().to_owned();
        if category == "dispatch" {
            let args = &event["args"];
            assert!(args["kernel"].is_string() && args["bytes"].as_u64().unwrap() > 0, "{event}");
            assert!(args["flops"].as_f64().unwrap() >= 0.0 && args["predicted_us"].as_f64().unwrap() > 0.0, "{event}");
            assert!(args["layer"].is_null() || args["layer"].is_u64(), "{event}");
        }
        Span { track: event["tid"].as_u64().unwrap(), category, start, end: start + length }
    });
    complete.collect()
}

/// On each track, two spans are apart or one is inside the other.
fn check_nesting(spans: &[Span]) {
    const SLACK: f64 = 2e-3;
    for (i, a) in spans.iter().enumerate() {
        for b in spans[i + 1..].iter().filter(|b| b.track == a.track) {
            let apart = a.end <= b.start + SLACK || b.end <= a.start + SLACK;
            let inside = |x: &Span, y: &Span| x.start >= y.start - SLACK && x.end <= y.end + SLACK;
            assert!(
                apart || inside(a, b) || inside(b, a),
                "{} {}..{} and {} {}..{} cross",
                a.category,
                a.start,
                a.end,
                b.category,
                b.start,
                b.end
            );
        }
    }
}

fn profiled(built: &Built, arguments: &[&str]) -> (Value, Vec<Span>) {
    let trace = built.file("trace.json");
    let plan = built.plan();
    let ran = run(&[&["profile", text(&plan), "--json", "-o", text(&trace)], arguments].concat());
    let spans = spans(&serde_json::from_slice(&fs::read(&trace).unwrap()).unwrap());
    check_nesting(&spans);
    (ran.json(), spans)
}

/// The sum of a phase's calls, its shares having been checked.
fn calls(phase: &Value) -> u64 {
    let kernels = phase["kernels"].as_array().unwrap();
    let share: f64 = kernels.iter().map(|k| k["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-6, "{share}");
    for kernel in kernels {
        for key in ["seconds", "gflop_per_s", "gb_per_s", "roofline_share", "predicted_seconds"] {
            assert!(kernel[key].as_f64().unwrap() >= 0.0, "{key} of {kernel}");
        }
    }
    kernels.iter().map(|k| k["calls"].as_u64().unwrap()).sum()
}

fn count(spans: &[Span], category: &str) -> usize {
    spans.iter().filter(|span| span.category == category).count()
}

#[test]
fn batches_of_encoders() {
    let built = Built::of_fixture("bert");
    let (report, spans) = profiled(&built, &["--batch", "3", "--tokens", "20"]);
    let phases = report["phases"].as_array().unwrap();
    assert_eq!((phases.len(), phases[0]["phase"].as_str()), (1, Some("batch")));
    assert_eq!((phases[0]["rows"].as_u64(), phases[0]["submissions"].as_u64()), (Some(60), Some(1)));
    assert_eq!(calls(&phases[0]), count(&spans, "dispatch") as u64);
    assert_eq!(
        [count(&spans, "submission"), count(&spans, "submit"), count(&spans, "wait"), count(&spans, "program")],
        [1; 4]
    );
    assert!(count(&spans, "layer") > 1);
    assert_eq!(report["target"], "webgpu");
    let ran = run(&["profile", text(&built.plan()), "--text", "a b"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    warpweft_tests::says(&ran.out, &["batch: ", "kernel", "roofline", "measured/predicted", "predictions are off by"]);
}

#[test]
fn prompts_and_tokens_after_them() {
    let built = Built::of_fixture("llama");
    let (report, spans) = profiled(&built, &["--tokens", "20", "--new-tokens", "3"]);
    let phases = report["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill", "decode"]);
    assert_eq!((phases[0]["rows"].as_u64(), phases[1]["rows"].as_u64()), (Some(20), Some(3)));
    assert_eq!(calls(&phases[0]) + calls(&phases[1]), count(&spans, "dispatch") as u64);
    assert_eq!(count(&spans, "program"), 4);
    let (report, _) = profiled(&built, &["--ids", "1,2,3", "--new-tokens", "1"]);
    assert_eq!(report["phases"][0]["rows"].as_u64(), Some(3));
}

#[test]
fn options_of_the_other_kind_are_refused() {
    let (bert, llama) = (Built::of_fixture("bert"), Built::of_fixture("llama"));
    let refused = |built: &Built, arguments: &[&str], part: &str| {
        run(&[&["profile", text(&built.plan())], arguments].concat()).refuses(2, &[part]);
    };
    refused(&bert, &["--prompt", "a"], "--prompt is for those that write");
    refused(&bert, &["--new-tokens", "2"], "--new-tokens");
    refused(&llama, &["--batch", "2"], "--batch is for encoders");
    refused(&llama, &["--ids", "1", "--ids", "2"], "one prompt");
    run(&["profile", text(&llama.plan()), "--tokens", "100000"]).refuses(1, &["--tokens 100000", "has room for"]);
}
