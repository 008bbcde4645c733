//! What happens when something is wrong: a clear message, the right exit code, and nothing left behind.

use std::fs;
use std::path::Path;

use serde_json::json;
use warpweft_tests::{Copy, fixture};

use crate::{Built, run, text};

#[test]
fn command_lines_that_cannot_be_meant() {
    let built = Built::of_fixture("bert");
    let plan = built.plan();
    let plan = text(&plan);
    for (arguments, parts) in [
        (&["frobnicate"][..], &["frobnicate"][..]),
        (&["build"], &["CHECKPOINT"]),
        (&["build", "x"], &["--output"]),
        (&["build", "x", "-o", "y", "--weights", "int3"], &["int3", "bf16"]),
        (&["build", "x", "-o", "y", "--targets", "cuda"], &["no target \"cuda\"", "webgpu"]),
        (&["build", "x", "-o", "y", "--targets", ","], &["no target"]),
        (&["build", "x", "-o", "y", "--dump", "nothing"], &["nothing", "scheduled"]),
        (&["build", "x", "-o", "y", "--without", "linear-gleu"], &["no rule \"linear-gleu\"", "linear-gelu"]),
        (&["build", "x", "-o", "y", "--without", "zzzzzzzz"], &["no rule \"zzzzzzzz\"", "docs/rules.md"]),
        (&["embed", plan, "--ids", "1", "--without", "linear-gelu"], &["--without linear-gelu", "compiled already"]),
        (&["bench", plan, "--without", "linear-gelu"], &["--without linear-gelu", "compiled already"]),
        (&["embed", plan], &["--text", "--input", "--ids"]),
        (&["embed", plan, "--ids", "1,two"], &["two"]),
        (&["embed", plan, "--ids", "1", "--text", "a"], &["cannot be used with"]),
        (&["embed", plan, "--ids", "1", "--memory", "lots"], &["lots", "4096"]),
        (&["bench", plan, "--repeat", "0"], &["--repeat"]),
    ] {
        let ran = run(arguments);
        ran.refuses(2, parts);
    }
    let nothing = run(&[]);
    assert_eq!(nothing.code, 2);
    let help = run(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    warpweft_tests::says(&help.out, &["Examples:", "build", "doctor"]);
    for command in [
        "build", "run", "chat", "embed", "logits", "eval", "inspect", "explain", "bench", "fit", "pull", "devices",
        "doctor",
    ] {
        warpweft_tests::says(&run(&[command, "--help"]).out, &["Examples:", "--json"]);
    }
    warpweft_tests::says(&run(&["--version"]).out, &["compile-model 0."]);
}

/// Builds a checkpoint that is refused, and looks whether anything is left.
#[track_caller]
fn build_refuses(checkpoint: &Path, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("model.weft");
    fs::write(&plan, "the plan of yesterday").unwrap();
    run(&["build", text(checkpoint), "-o", text(&plan), "--targets", "webgpu"]).refuses(1, parts);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["model.weft"], "nothing is left");
    assert_eq!(fs::read_to_string(&plan).unwrap(), "the plan of yesterday");
}

fn change_weights(copy: &Copy, change: impl FnOnce(&mut Vec<u8>)) {
    let path = copy.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn checkpoints_that_are_damaged() {
    let copy = Copy::of("bert");
    change_weights(&copy, |bytes| bytes.truncate(200));
    build_refuses(copy.path(), &["model.safetensors"]);
    let copy = Copy::of("bert");
    change_weights(&copy, |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    build_refuses(copy.path(), &["model.safetensors"]);
    let copy = Copy::of("bert");
    change_weights(&copy, |bytes| bytes.truncate(bytes.len() - 4));
    build_refuses(copy.path(), &["model.safetensors"]);
    let copy = Copy::of("xlm-roberta");
    fs::remove_file(copy.path().join("model-00002-of-00002.safetensors")).unwrap();
    build_refuses(copy.path(), &["model-00002-of-00002.safetensors", "missing"]);
    // Found when the weight is packed, with half a plan written.
    let nan = f32::NAN.to_le_bytes();
    let copy = Copy::of("bert").tensors(|tensors| {
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name.contains("layer.1.output.dense.weight")).unwrap();
        tensor.2[40..44].copy_from_slice(&nan);
    });
    build_refuses(copy.path(), &["layer.1.output.dense.weight", "NaN", "element 10"]);
}

#[test]
fn configurations_that_are_absurd() {
    for (field, value, part) in [
        ("hidden_size", json!(0), "hidden_size"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_hidden_layers", json!(4_000_000_000u64), "num_hidden_layers"),
        ("intermediate_size", json!(1u64 << 60), "intermediate_size"),
        ("vocab_size", json!(-3), "vocab_size"),
        ("model_type", json!("perceptron"), "modernbert"),
    ] {
        build_refuses(Copy::of("bert").set(field, value).path(), &[part]);
    }
    let folder = tempfile::tempdir().unwrap();
    build_refuses(folder.path(), &["config.json"]);
    build_refuses(&folder.path().join("nowhere"), &["no such folder"]);
    build_refuses(&fixture("bert").join("config.json"), &["folder"]);
}

#[test]
fn plans_that_are_damaged() {
    let built = Built::of_fixture("bert");
    let good = fs::read(built.plan()).unwrap();
    let bad = built.file("bad.weft");
    let embed = |bytes: &[u8]| {
        fs::write(&bad, bytes).unwrap();
        run(&["embed", text(&bad), "--ids", "1"])
    };
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let version = good.windows(9).position(|w| w == b"version\":").unwrap() + 10;
    let mut other = good.clone();
    other[version] = b'9';
    embed(&other).refuses(1, &["version", "\"9\"", "compile the model again", "hint: "]);
    // Every bit of the header counts.
    for at in (0..header).step_by(header / 97) {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        let ran = embed(&flipped);
        assert_eq!(ran.code, 1, "byte {at}: {}", ran.err);
        assert!(ran.err.contains("error: ") && !ran.err.contains("panicked"), "byte {at}: {}", ran.err);
    }
    embed(&good[..good.len() - 1]).refuses(1, &["truncated", "hint: "]);
    embed(&good[..100]).refuses(1, &["error: "]);
    embed(b"").refuses(1, &["not a Warpweft plan"]);
    embed(b"once upon a time there was a file").refuses(1, &["error: "]);
    run(&["inspect", text(built.folder.path())]).refuses(1, &["is a folder", "compile-model build"]);
    run(&["embed", "no/such/plan.weft", "--ids", "1"]).refuses(1, &["no such file or folder", "hint: "]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let built = Built::of_fixture("bert");
    let plan = built.plan();
    let below_a_file = plan.join("out");
    let nowhere = built.file("nowhere/out");
    for out in [built.folder.path(), &below_a_file, &nowhere] {
        run(&["build", text(&fixture("bert")), "-o", text(out)]).refuses(1, &["cannot write", text(out)]);
        let ran = run(&["embed", text(&plan), "--ids", "1", "--output", text(out)]);
        ran.refuses(1, &["cannot write", text(out)]);
    }
    assert_eq!(fs::read_dir(built.folder.path()).unwrap().count(), 1, "nothing is left");
}

#[test]
fn runs_that_cannot_be_had() {
    let built = Built::of_fixture("bert");
    let plan = built.plan();
    let embed = |more: &[&str]| run(&[&["embed", text(&plan)], more].concat());
    embed(&["--ids", "1", "--adapter", "no such thing"]).refuses(1, &["no such thing", "devices"]);
    embed(&["--ids", "1", "--adapter", "999"]).refuses(1, &["999"]);
    embed(&["--ids", "1", "--memory", "1KiB"]).refuses(1, &["does not fit", "weights", "activations", "hint: "]);
    embed(&["--ids", "1,99999"]).refuses(1, &["id 99999"]);
    embed(&["--input", "no/such/lines.txt"]).refuses(1, &["no/such/lines.txt"]);
    let long = vec!["1"; 5000].join(",");
    embed(&["--ids", &long]).refuses(1, &["5000 rows"]);
    let bytes = built.file("bytes.txt");
    fs::write(&bytes, b"ok\n\xff\xfe").unwrap();
    embed(&["--input", text(&bytes)]).refuses(1, &["UTF-8", "offset 3"]);
    let copy = Copy::of("bert");
    fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
    let without = Built::of(copy.path());
    run(&["embed", text(&without.plan()), "--text", "a"]).refuses(1, &["tokenizer", "--ids"]);
    assert_eq!(run(&["embed", text(&without.plan()), "--ids", "1"]).code, 0);
}
