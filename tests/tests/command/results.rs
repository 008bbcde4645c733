//! What comes out when all is well.

use std::fs;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use warpweft_tests::{Reference, fixture, minilm, worst};

use crate::{Built, floats, list, run, text};

/// Name, shape and elements of the only tensor of a file.
pub(crate) fn only_tensor(path: &std::path::Path) -> (String, Vec<usize>, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [(name, tensor)] = &file.tensors()[..] else { panic!("{:?}", file.names()) };
    let values = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (name.clone(), tensor.shape().to_vec(), values)
}

#[test]
fn embeddings_are_those_of_the_reference() {
    let built = Built::of_fixture("bert");
    let texts = Reference::of("bert").texts();
    let out = built.file("vectors.safetensors");
    let mut arguments = vec!["embed".to_owned(), text(&built.plan()).to_owned(), "--json".into()];
    arguments.extend(["--output".into(), text(&out).to_owned()]);
    for sequence in &texts {
        arguments.extend(["--ids".to_owned(), list(&sequence.ids)]);
    }
    let ran = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let found = ran.json();
    let expected: Vec<f32> = texts.iter().flat_map(|text| text.pooled.iter().copied()).collect();
    assert!(worst(&floats(&found["embeddings"]), &expected) < 2e-5);
    assert_eq!(found["tokens"], json!(texts.iter().map(|text| text.ids.len()).collect::<Vec<_>>()));
    assert_eq!(found["embeddings"].as_array().unwrap().len(), texts.len());
    let (name, shape, values) = only_tensor(&out);
    assert_eq!((name.as_str(), shape), ("embeddings", vec![texts.len(), 64]));
    assert_eq!(values, floats(&found["embeddings"]));
    assert_eq!(found.as_object().unwrap().len(), 2);
}

#[test]
fn hidden_states_are_those_of_the_reference() {
    let built = Built::of_fixture("bert");
    let reference = Reference::of("bert");
    let texts = reference.texts();
    let out = built.file("hidden.safetensors");
    let ids: Vec<String> = texts.iter().map(|text| list(&text.ids)).collect();
    let ran = run(&[
        "embed",
        text(&built.plan()),
        "--hidden",
        "--ids",
        &ids[0],
        "--ids",
        &ids[1],
        "--output",
        text(&out),
        "--json",
    ]);
    let found = ran.json();
    let (name, shape, values) = only_tensor(&out);
    let rows = texts[0].ids.len() + texts[1].ids.len();
    assert_eq!((name.as_str(), shape), ("last_hidden_state", vec![rows, 64]));
    let expected = [texts[0].hidden.as_slice(), &texts[1].hidden].concat();
    assert!(worst(&values, &expected) < 2e-4);
    assert_eq!(values, floats(&found["last_hidden_state"]));
    assert_eq!(found["last_hidden_state"].as_array().unwrap().len(), rows);
}

#[test]
fn logits_are_those_of_the_reference() {
    let built = Built::of_fixture("bert-mlm");
    let reference = Reference::of("bert-mlm");
    let out = built.file("logits.safetensors");
    let ran = run(&["logits", text(&built.plan()), "--ids", &list(&reference.ids("input_ids")), "-o", text(&out)]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    let (name, shape, values) = only_tensor(&out);
    assert_eq!((name.as_str(), shape[1]), ("logits", 509));
    assert!(worst(&values, &reference.floats("logits")) < 5e-4);
    let without_head = Built::of_fixture("bert");
    run(&["logits", text(&without_head.plan()), "--ids", "1"]).refuses(1, &["has no output logits", "hint: "]);
}

#[test]
fn texts_come_from_arguments_and_files() {
    let built = Built::of_fixture("bert");
    let file = built.file("lines.txt");
    fs::write(&file, "Hello, world!\r\n\n leading space\n").unwrap();
    let found =
        run(&["embed", text(&built.plan()), "--text", "Hello, world!", "--input", text(&file), "--json"]).json();
    // The second line is empty: the tokenizer's special tokens alone.
    assert_eq!(found["tokens"], json!([7, 7, 2, 10]));
    let rows = found["embeddings"].as_array().unwrap();
    assert!(worst(&floats(&rows[0]), &floats(&rows[1])) < 1e-6);
    let people = run(&["embed", text(&built.plan()), "--text", "one", "--text", "--two"]);
    assert_eq!(people.code, 0, "{}", people.err);
    warpweft_tests::says(&people.out, &["one", "--two", "cosine", "1.000", "(64 values)"]);
    let nothing = built.file("nothing.txt");
    fs::write(&nothing, "").unwrap();
    let found = run(&["embed", text(&built.plan()), "--input", text(&nothing), "--json"]).json();
    assert_eq!(found, json!({"embeddings": [], "tokens": []}));
}

#[test]
fn minilm_through_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, lines) = (folder.path().join("minilm.weft"), folder.path().join("lines.txt"));
    let ran = run(&["build", text(&minilm()), "-o", text(&plan), "--json"]).json();
    assert_eq!(ran["phases"].as_array().unwrap().len(), 8);
    assert!(ran["bytes_read"].as_u64().unwrap() > 90_000_000);
    let reference = fs::read_to_string(fixture("minilm-reference").join("reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&reference).unwrap();
    let rows = reference["rows"].as_array().unwrap();
    let texts: Vec<&str> = rows.iter().map(|row| row["text"].as_str().unwrap()).collect();
    let mut arguments = vec!["embed", text(&plan), "--json"];
    texts.iter().for_each(|text| arguments.extend(["--text", text]));
    let found = run(&arguments).json();
    assert_eq!(found["tokens"], json!(rows.iter().map(|row| row["tokens"].clone()).collect::<Vec<_>>()));
    let expected = Reference::of("minilm-reference").floats("embeddings");
    assert!(worst(&floats(&found["embeddings"]), &expected) < 2e-6);
    fs::write(&lines, texts[..2].join("\n")).unwrap();
    let again = run(&["embed", text(&plan), "--input", text(&lines), "--json"]).json();
    assert!(worst(&floats(&again["embeddings"]), &expected[..2 * 384]) < 2e-6);
    let f16 = folder.path().join("f16.weft");
    assert_eq!(run(&["build", text(&minilm()), "-o", text(&f16), "--weights", "f16"]).code, 0);
    let half = run(&["embed", text(&f16), "--input", text(&lines), "--json"]).json();
    let off = worst(&floats(&half["embeddings"]), &expected[..2 * 384]);
    assert!((1e-6..2e-3).contains(&off), "{off}");
    assert!(fs::metadata(f16).unwrap().len() < fs::metadata(plan).unwrap().len() * 55 / 100);
}

#[test]
fn plans_can_be_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("bert.weft");
    let ran = run(&["build", text(&fixture("bert")), "-o", text(&plan), "--targets", "webgpu,subgroup8", "--json"]);
    assert_eq!(ran.json()["programs"], 12);
    let report = run(&["inspect", text(&plan), "--json"]).json();
    assert_eq!(report["version"], "1");
    assert_eq!(report["model"]["name"], "bert");
    assert!(report["weight_bytes"].as_u64().unwrap() > 500_000);
    let programs = report["programs"].as_array().unwrap();
    assert_eq!(programs.len(), 12);
    for program in programs {
        assert!(["webgpu", "subgroup8"].contains(&program["target"].as_str().unwrap()));
        let rows = program["rows"].as_array().unwrap();
        assert!(rows[0].as_u64().unwrap() >= 1 && (rows[1].is_u64() || rows[1].is_null()));
        assert!(program["kernels"].as_array().unwrap().iter().all(Value::is_string));
        assert!((1..=7).contains(&program["dispatches_per_layer"].as_u64().unwrap()), "{program}");
        for key in ["dispatches", "bytes_per_step", "activation_bytes"] {
            assert!(program[key].as_u64().unwrap() > 0, "{key}");
        }
    }
    let people = run(&["inspect", text(&plan), "--kernels"]);
    warpweft_tests::says(&people.out, &["bert (bert)", "subgroup8", "layer", "attention_"]);
    let shaders = run(&["inspect", text(&plan), "--wgsl", "attention_"]);
    warpweft_tests::says(&shaders.out, &["@compute", "fn main"]);
    run(&["inspect", text(&plan), "--wgsl", "no such kernel"]).refuses(1, &["no kernel"]);
}

#[test]
fn phases_can_be_dumped() {
    for phase in ["import", "canonical", "rewritten", "extracted", "kernels", "scheduled"] {
        let ran = run(&["build", text(&fixture("bert")), "--dump", phase, "--targets", "webgpu"]);
        assert!(ran.code == 0 && ran.out.len() > 100, "{phase}: {}", ran.err);
    }
}

#[test]
fn adapters_are_listed() {
    let adapters = run(&["devices", "--json"]).json()["adapters"].clone();
    let first = &adapters[0];
    for key in ["name", "kind", "backend", "driver", "tier"] {
        assert!(first[key].is_string(), "{key}: {first}");
    }
    assert_eq!(first["index"], 0);
    for key in ["buffer_bytes", "binding_bytes", "storage_buffers", "workgroup_bytes", "workgroup_invocations"] {
        assert!(first["limits"][key].as_u64().unwrap() > 0, "{key}");
    }
    warpweft_tests::says(&run(&["devices"]).out, &[first["name"].as_str().unwrap()]);
}

#[test]
fn speed_is_measured() {
    let built = Built::of_fixture("bert");
    let plan = built.plan();
    let arguments = ["bench", text(&plan), "--batch", "3", "--tokens", "20", "--repeat", "3"];
    let report = run(&[&arguments[..], &["--baseline", text(&plan), "--json"]].concat()).json();
    for key in ["median_ms", "min_ms", "ratio"] {
        assert!(report["baseline"][key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
    assert_eq!(report["baseline"]["model"], text(&plan));
    for key in ["median_ms", "min_ms", "max_ms", "sequences_per_s", "rows_per_s", "gflop_per_s", "gb_per_s"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
    let (median, rows) = (report["median_ms"].as_f64().unwrap(), report["rows_per_s"].as_f64().unwrap());
    assert!((rows * median / 60_000.0 - 1.0).abs() < 1e-6, "{report}");
    assert!(report["min_ms"].as_f64() <= Some(median) && report["max_ms"].as_f64() >= Some(median));
    assert_eq!(report["cpu_share"].is_null(), report["cpu_gflop_per_s"].is_null());
    let people = run(&arguments);
    warpweft_tests::says(&people.out, &["median", "sequences/s", "GFLOP/s", "3 × 20 tokens"]);
    run(&["bench", text(&plan), "--tokens", "9999"]).refuses(1, &["9999 rows", "positions"]);
}

#[test]
fn the_doctor_finds_nothing_wrong() {
    let built = Built::of_fixture("bert");
    let report = run(&["doctor", text(&built.plan()), "--json"]).json();
    assert_eq!(report["wrong"], 0);
    let kernels = report["kernels"].as_array().unwrap();
    assert!(kernels.len() > 5, "{report}");
    assert!(kernels.iter().all(|kernel| kernel["agrees"] == true), "{report}");
    let people = run(&["doctor"]);
    assert_eq!(people.code, 0, "{}{}", people.out, people.err);
    warpweft_tests::says(&people.out, &["attention_", "linear_f16", "linear_bf16", "heads_", "pool_", "agree"]);
}

/// A checkpoint that is compiled with fewer rules computes the same in more dispatches, and the cache tells both apart.
#[test]
fn rules_can_be_left_out() {
    let built = Built::of_fixture("bert");
    let dispatches = |more: &[&str]| {
        let plan = built.file("other.weft");
        let folder = fixture("bert");
        let arguments = ["build", text(&folder), "-o", text(&plan), "--targets", "webgpu"];
        assert_eq!(run(&[&arguments[..], more].concat()).code, 0);
        let report = run(&["inspect", text(&plan), "--json"]).json();
        let programs = report["programs"].as_array().unwrap();
        programs.iter().map(|program| program["dispatches"].as_u64().unwrap()).max().unwrap()
    };
    let all = dispatches(&[]);
    assert_eq!(dispatches(&["--without", "linear-gelu"]), all + 3, "one more in each layer");
    assert!(dispatches(&["--without", "linear-gelu", "--without", "merge-siblings"]) > all + 3);
    let embed = |more: &[&str]| {
        let folder = fixture("bert");
        floats(&run(&[&["embed", text(&folder), "--ids", "2,5,7", "--json"], more].concat()).json()["embeddings"])
    };
    let (with, without) = (embed(&[]), embed(&["--without", "linear-gelu", "--without", "merge-siblings"]));
    assert!(worst(&with, &without) < 1e-5);
}
