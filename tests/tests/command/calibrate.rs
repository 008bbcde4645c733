//! `build --quantize` with calibration: what is refused, and what a plan says afterwards.

use std::path::PathBuf;

use tempfile::TempDir;
use warpweft_tests::{fixture, says};

use super::run;

/// A text of a thousand tokens or two, whatever the tokenizer: enough for moments and measurements.
fn text(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("text.txt");
    let line = |i: usize| format!("{i}: the row {} of a table has {} columns, says page {}.\n", i * 7, i % 13, i / 3);
    std::fs::write(&path, (0..60).map(line).collect::<String>()).unwrap();
    path
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (model, plan) = (fixture("qwen3"), folder.path().join("p.weft"));
    let build = |more: &[&str]| {
        let base = ["build", model.to_str().unwrap(), "-o", plan.to_str().unwrap()];
        run(&base.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    };
    build(&["--quantize", "int4", "--budget", "1%"]).refuses(2, &["--quantize auto"]);
    build(&["--fit", "1GiB"]).refuses(2, &["--quantize auto"]);
    build(&["--calibrate", "bundled"]).refuses(2, &["--quantize FORMAT"]);
    build(&["--quantize", "auto", "--budget", "1"]).refuses(2, &["1%"]);
    build(&["--quantize", "auto", "--calibrate", "no-such-file"]).refuses(1, &["no-such-file"]);
    let short = folder.path().join("short.txt");
    std::fs::write(&short, "few words").unwrap();
    let short = short.to_str().unwrap();
    build(&["--quantize", "auto", "--calibrate", short]).refuses(1, &["short.txt", "tokens, expected at least"]);
    run(&["eval", model.to_str().unwrap(), "--text", short, "--quantize", "auto"]).refuses(2, &["compile-model build"]);
    assert!(!plan.exists());
}

#[test]
fn what_cannot_fit_says_what_can() {
    let folder = tempfile::tempdir().unwrap();
    let (model, plan, text) = (fixture("qwen3"), folder.path().join("p.weft"), text(&folder));
    let build = ["build", model.to_str().unwrap(), "-o", plan.to_str().unwrap(), "--targets", "webgpu"];
    let auto = ["--quantize", "auto", "--fit", "1KiB", "--calibrate", text.to_str().unwrap()];
    run(&[&build[..], &auto].concat()).refuses(1, &["--fit", "KiB", "at the least"]);
    let bert = fixture("bert");
    let build = ["build", bert.to_str().unwrap(), "-o", plan.to_str().unwrap(), "--targets", "webgpu"];
    run(&[&build[..], &auto].concat()).refuses(2, &["language model"]);
}

#[test]
fn a_plan_tells_what_was_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let (model, plan, text) = (fixture("qwen3"), folder.path().join("p.weft"), text(&folder));
    for (quantize, format) in [("int4", "int4-g32"), ("auto", "")] {
        let built = run(&[
            "build",
            model.to_str().unwrap(),
            "-o",
            plan.to_str().unwrap(),
            "--targets",
            "webgpu",
            "--quantize",
            quantize,
            "--calibrate",
            text.to_str().unwrap(),
            "--json",
        ]);
        let told = built.json()["quantization"].clone();
        let weights = told["weights"].as_array().unwrap();
        assert!(weights.iter().any(|w| w["format"].as_str().is_some_and(|f| f.starts_with(format))), "{told}");
        assert!(weights.iter().all(|w| w["error"].as_f64().unwrap() >= 0.0));
        assert_eq!(told["calibration"]["text"], "text.txt");
        assert!(told["measured_loss"].as_f64().is_some());
        assert_eq!(told["predicted_loss"].as_f64().is_some(), quantize == "auto");
        let inspected = run(&["inspect", plan.to_str().unwrap(), "--json"]).json();
        assert_eq!(inspected["quantization"], told);
        let shown = run(&["inspect", plan.to_str().unwrap(), "--weights"]);
        says(&shown.out, &["rounded by", "text.txt", "perplexity +"]);
        let explained = run(&["explain", plan.to_str().unwrap(), "--layer", "0", "--rows", "1", "--kernel", "linear"]);
        says(&explained.out, &["(lossy): mean square error of the result"]);
        assert_eq!(explained.out.contains("predicted loss"), quantize == "auto", "{}", explained.out);
        let replayed =
            run(&["explain", plan.to_str().unwrap(), "--layer", "0", "--rows", "1", "--kernel", "linear", "--check"]);
        assert_eq!(replayed.code, 0, "{}", replayed.err);
        says(&replayed.out, &["(lossy): error"]);
        let ran = run(&["run", plan.to_str().unwrap(), "--ids", "1,2,3", "-n", "2", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
}
