//! Models that write text.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use warpweft_tests::{Copy, Reference, fixture, worst};

use crate::results::only_tensor;
use crate::{Built, list, run, text};

/// The fixture and what transformers makes of it.
struct Llama {
    built: Built,
    prompt: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

impl Llama {
    fn new() -> Llama {
        let reference = Reference::of("llama");
        let (prompt, greedy) = (reference.ids("input_ids"), reference.ids("greedy_ids"));
        Llama { built: Built::of_fixture("llama"), prompt, logits: reference.floats("logits"), greedy }
    }

    fn plan(&self) -> String {
        text(&self.built.plan()).to_owned()
    }
}

/// A folder with nothing but a fixture's config.json.
fn config_of(name: &str) -> Copy {
    let copy = Copy::of(name);
    for entry in fs::read_dir(copy.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else if !path.ends_with("config.json") {
            fs::remove_file(path).unwrap();
        }
    }
    copy
}

#[test]
fn logits_of_every_row() {
    let llama = Llama::new();
    let out = llama.built.file("logits.safetensors");
    let ran = run(&["logits", &llama.plan(), "--ids", &list(&llama.prompt), "-o", text(&out)]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    let (name, shape, values) = only_tensor(&out);
    assert_eq!((name.as_str(), shape), ("logits", vec![llama.prompt.len(), 512]));
    assert!(worst(&values, &llama.logits) < 5e-4);
}

#[test]
fn texts_are_continued() {
    let llama = Llama::new();
    let count = llama.greedy.len().to_string();
    let ids = list(&llama.prompt);
    let arguments = ["run", &llama.plan(), "--ids", &ids, "--max-tokens", &count, "--ignore-eos"];
    let found = run(&[&arguments[..], &["--json"]].concat()).json();
    assert_eq!((&found["prompt_ids"], &found["ids"]), (&json!(llama.prompt), &json!(llama.greedy)));
    assert_eq!(found["finish"], "length");
    for key in ["prompt_tokens_per_s", "tokens_per_s", "time_to_first_token_s"] {
        assert!(found[key].as_f64().unwrap() > 0.0, "{key}: {found}");
    }
    let written = found["text"].as_str().unwrap();
    assert!(!written.is_empty());
    let people = run(&arguments);
    assert_eq!((people.code, people.out.trim_end_matches('\n')), (0, written.trim_end_matches('\n')), "{}", people.err);
    warpweft_tests::says(&people.err, &["tokens/s", "length"]);
    // The prompt as text and from a file.
    let reference: Value =
        serde_json::from_str(&fs::read_to_string(fixture("llama").join("reference.json")).unwrap()).unwrap();
    let file = llama.built.file("prompt.txt");
    fs::write(&file, reference["prompt"].as_str().unwrap()).unwrap();
    for given in [["--prompt", reference["prompt"].as_str().unwrap()], ["--prompt-file", text(&file)]] {
        let found = run(&[&["run", &llama.plan(), "-n", "3", "--json"], &given[..]].concat()).json();
        assert_eq!((&found["prompt_ids"], &found["ids"]), (&json!(llama.prompt), &json!(llama.greedy[..3])));
    }
    // Chance, but the same again.
    let draw = |seed: &str| {
        let more = ["run", &llama.plan(), "--ids", &ids, "-n", "12", "-t", "1.5", "--seed", seed, "--json"];
        run(&more).json()["ids"].clone()
    };
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn a_model_without_tokenizer_takes_ids() {
    let copy = Copy::of("llama");
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::remove_file(copy.path().join(file)).unwrap();
    }
    let (built, llama) = (Built::of(copy.path()), Llama::new());
    let plan = built.plan();
    let found = run(&["run", text(&plan), "--ids", &list(&llama.prompt), "-n", "4", "--json"]).json();
    assert_eq!((&found["ids"], &found["text"]), (&json!(llama.greedy[..4]), &json!("")));
    run(&["run", text(&plan), "--prompt", "a"]).refuses(1, &["tokenizer", "--ids"]);
    run(&["run", text(&plan), "--ids", "1", "--stop", "x"]).refuses(1, &["tokenizer"]);
    run(&["chat", text(&plan)]).refuses(1, &["no chat template", "compile-model run"]);
}

#[test]
fn texts_that_cannot_be_continued() {
    let llama = Llama::new();
    let plan = llama.plan();
    let refused = |more: &[&str], code: u8, parts: &[&str]| run(&[&["run", &plan], more].concat()).refuses(code, parts);
    refused(&[], 2, &["--prompt", "--ids"]);
    refused(&["--ids", "1,512"], 1, &["512", "vocabulary"]);
    refused(&["--ids", "1", "--context", "9999"], 1, &["--context 9999", "2048 positions"]);
    refused(&["--ids", &vec!["1"; 40].join(","), "--context", "32"], 1, &["40", "32", "hint: "]);
    refused(&["--ids", &vec!["1"; 2049].join(",")], 1, &["2049", "2048", "positions"]);
    refused(&["--ids", "1", "--top-p", "2"], 1, &["top_p", "2"]);
    refused(&["--prompt", "a", "--ids", "1"], 2, &["cannot be used with"]);
    let gpt2 = Built::of_fixture("gpt2");
    run(&["run", text(&gpt2.plan()), "--prompt", ""]).refuses(1, &["prompt is empty"]);
    run(&["chat", text(&gpt2.plan())]).refuses(1, &["gpt2", "no chat template", "compile-model run"]);
    let encoder = Built::of_fixture("bert");
    for command in ["run", "eval", "chat"] {
        let file = llama.built.file("ids.safetensors");
        write_ids(&file, &[1, 2, 3]);
        let ids = match command {
            "run" => vec!["--ids", "1"],
            "eval" => vec!["--ids", text(&file)],
            _ => vec![],
        };
        run(&[&[command, text(&encoder.plan())], &ids[..]].concat()).refuses(1, &["no output", "hint: "]);
    }
}

fn write_ids(file: &Path, ids: &[u32]) {
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::I64, vec![ids.len()], &bytes).unwrap();
    safetensors::serialize_to_file([("ids", view)], None, file).unwrap();
}

/// The mean negative log-probability of the ids from `first` on, by the reference's scores.
fn loss(llama: &Llama, first: usize) -> f64 {
    let of = |at: usize| {
        let row: Vec<f64> = llama.logits[(at - 1) * 512..at * 512].iter().map(|&x| f64::from(x)).collect();
        let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        greatest + row.iter().map(|x| (x - greatest).exp()).sum::<f64>().ln() - row[llama.prompt[at] as usize]
    };
    let count = llama.prompt.len();
    (first..count).map(of).sum::<f64>() / (count - first) as f64
}

#[test]
fn texts_are_predicted() {
    let llama = Llama::new();
    let (plan, file) = (llama.plan(), llama.built.file("ids.safetensors"));
    write_ids(&file, &llama.prompt);
    let eval = |more: &[&str]| run(&[&["eval", &plan, "--ids", text(&file), "--json"], more].concat());
    let found = eval(&[]).json();
    let count = llama.prompt.len();
    let nll = found["nll_per_token"].as_f64().unwrap();
    assert!((nll - loss(&llama, 1)).abs() < 1e-4, "{nll} {}", loss(&llama, 1));
    assert!((found["perplexity"].as_f64().unwrap() - nll.exp()).abs() < 1e-9 * nll.exp());
    assert_eq!((&found["scored_tokens"], &found["chunks"]), (&json!(count - 1), &json!(1)));
    // Chunks lose their first token each, windows that overlap lose one in all.
    let chunks = eval(&["--context", "10"]).json();
    assert_eq!(
        (&chunks["scored_tokens"], &chunks["chunks"]),
        (&json!(count - count.div_ceil(10)), &json!(count.div_ceil(10)))
    );
    let windows = eval(&["--context", "32", "--stride", "5"]).json();
    assert_eq!(windows["scored_tokens"], count - 1);
    assert!((windows["nll_per_token"].as_f64().unwrap() - nll).abs() < 0.2 * nll);
    eval(&["--context", "8", "--stride", "9"]).refuses(2, &["--stride 9", "--context 8"]);
    eval(&["--stride", "4096"]).refuses(1, &["--stride 4096", "2048"]);
    eval(&["--context", "4096"]).refuses(1, &["--context 4096", "2048 positions"]);
    write_ids(&file, &[1]);
    eval(&[]).refuses(1, &["found 1 tokens", "at least 2"]);
    write_ids(&file, &[1, 600]);
    eval(&[]).refuses(1, &["600", "512"]);
    fs::write(&file, b"nonsense").unwrap();
    eval(&[]).refuses(1, &["ids.safetensors"]);
    let people = llama.built.file("text.txt");
    fs::write(&people, "Rust automatically called drop.").unwrap();
    let ran = run(&["eval", &plan, "--text", text(&people)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    warpweft_tests::says(&ran.out, &["perplexity", "tokens/s"]);
}

#[test]
fn speed_of_writing_is_measured() {
    let llama = Llama::new();
    let plan = llama.plan();
    let shape = ["--prompt-tokens", "20", "--new-tokens", "4", "--repeat", "2", "--warmup", "1"];
    let bench = |model: &str, more: &[&str]| run(&[&["bench", model], &shape[..], more].concat());
    let one = bench(&plan, &["--json"]).json();
    for key in [
        "prompt_tokens_per_s",
        "decode_tokens_per_s",
        "time_to_first_token_s",
        "step_median_ms",
        "weight_bytes_per_token",
        "cache_bytes_per_token",
        "dispatches_per_token",
        "gb_per_s",
        "copy_gb_per_s",
        "copy_share",
    ] {
        assert!(one[key].as_f64().unwrap() > 0.0, "{key}: {one}");
    }
    assert_eq!(one["random_weights"], false);
    // Halfway there are 22 rows of keys and values in f32: four layers, two heads of 16 columns.
    let row = 4 * 2 * cache_columns() * 4;
    assert_eq!(one["cache_bytes_per_token"].as_f64(), Some(f64::from(22 * row)), "{one}");
    let device = &one["device_bytes"];
    let parts = ["weights", "cache", "activations", "transfers"].map(|part| device[part].as_u64().unwrap());
    assert_eq!(parts.iter().sum::<u64>(), device["total"].as_u64().unwrap());
    let told = run(&["fit", &plan, "--memory", "4GiB", "--json"]).json();
    assert_eq!(told["need"]["weights"], device["weights"]);
    if cfg!(target_os = "linux") {
        assert!(one["peak_process_bytes"].as_u64().unwrap() > 10 << 20);
    }
    let three = bench(&plan, &["--sessions", "3", "--json"]).json();
    assert_eq!(three["cache_bytes_per_token"], one["cache_bytes_per_token"]);
    let weights = |report: &Value| report["weight_bytes_per_token"].as_f64().unwrap();
    assert!(weights(&three) < 0.5 * weights(&one), "weights are shared: {three}");
    let people = bench(&plan, &["--baseline", &plan]);
    assert_eq!(people.code, 0, "{}", people.err);
    warpweft_tests::says(
        &people.out,
        &["1 × 20 + 4 tokens", "prompt tokens/s", "decode tokens/s", "copy GB/s", "of cache", &plan, "times as fast"],
    );
    bench(&plan, &["--batch", "3"]).refuses(2, &["--batch", "--prompt-tokens"]);
    run(&["bench", &plan, "--prompt-tokens", "2040"]).refuses(1, &["2072 rows", "2048 positions"]);
    let batch =
        run(&["bench", &plan, "--output", "hidden", "--batch", "2", "--tokens", "9", "--repeat", "1", "--json"]);
    assert_eq!(batch.json()["output"], "hidden");
    let encoder = Built::of_fixture("bert");
    bench(text(&encoder.plan()), &[]).refuses(2, &["--prompt-tokens", "--batch"]);
    bench(&plan, &["--baseline", text(&encoder.plan())]).refuses(2, &["--baseline", "only one of the two models"]);
    bench(&plan, &["--baseline", "nowhere.weft"]).refuses(1, &["nowhere.weft"]);
}

/// Columns of the keys of a layer of the llama fixture.
fn cache_columns() -> u32 {
    let config: Value =
        serde_json::from_str(&fs::read_to_string(fixture("llama").join("config.json")).unwrap()).unwrap();
    let number = |field: &str| config[field].as_u64().unwrap() as u32;
    number("hidden_size") / number("num_attention_heads") * number("num_key_value_heads")
}

#[test]
fn random_weights_take_the_place_of_missing_ones() {
    let config = config_of("llama");
    let arguments = ["--prompt-tokens", "8", "--new-tokens", "2", "--repeat", "1", "--json"];
    let ran = run(&[&["bench", text(config.path())], &arguments[..]].concat());
    let report = ran.json();
    assert_eq!((&report["random_weights"], report["decode_tokens_per_s"].as_f64() > Some(0.0)), (&json!(true), true));
    let encoder = config_of("distilbert");
    let ran = run(&["bench", text(encoder.path()), "--batch", "2", "--tokens", "9", "--repeat", "1"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    warpweft_tests::says(&ran.err, &["no weights in", "random"]);
    // Everything else wants real ones.
    run(&["run", text(config.path()), "--ids", "1"]).refuses(1, &["model.safetensors"]);
    let nothing = tempfile::tempdir().unwrap();
    run(&["bench", text(nothing.path())]).refuses(1, &["config.json"]);
}

#[test]
fn whether_a_model_fits_is_told() {
    let llama = Llama::new();
    let ample = ["--memory", "4GiB"];
    let fit = |model: &str, more: &[&str]| run(&[&["fit", model], more].concat());
    let whole = fit(&llama.plan(), &[&ample[..], &["--json"]].concat()).json();
    assert_eq!(
        (&whole["context"], &whole["sessions"], &whole["output"]),
        (&json!(2048), &json!(1), &json!("candidates"))
    );
    let need = |report: &Value, part: &str| report["need"][part].as_u64().unwrap();
    let sum: u64 = ["weights", "cache", "activations", "transfers"].iter().map(|part| need(&whole, part)).sum();
    assert_eq!(sum, need(&whole, "total"));
    assert_eq!(need(&whole, "cache"), 2048 * need(&whole, "cache_per_token"));
    assert!(whole["adapters"].as_array().unwrap().iter().any(|adapter| adapter["fits"] == true), "{whole}");
    let small = fit(&llama.plan(), &[&ample[..], &["--context", "100", "--sessions", "3", "--json"]].concat()).json();
    assert_eq!(need(&small, "cache"), 3 * 128 * need(&small, "cache_per_token"));
    // A folder, and one without weights.
    let folder = fit(text(&fixture("llama")), &[&ample[..], &["--json"]].concat()).json();
    let config = fit(text(config_of("llama").path()), &[&ample[..], &["--json"]].concat()).json();
    assert_eq!(need(&folder, "weights"), need(&config, "weights"));
    let f32 = fit(text(&fixture("llama")), &[&ample[..], &["--weights", "f32", "--json"]].concat()).json();
    assert!(need(&f32, "weights") > need(&folder, "weights") * 3 / 2);
    // What does not fit, and what would.
    let limit = format!("{}", need(&whole, "total") - need(&whole, "cache") / 2);
    let ran = fit(&llama.plan(), &["--memory", &limit, "--json"]);
    assert_eq!(ran.code, 1);
    warpweft_tests::says(&ran.err, &["error: ", "does not fit"]);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(report["adapters"].as_array().unwrap().iter().all(|adapter| adapter["fits"] == false), "{report}");
    let advice = report["advice"][0].as_str().unwrap();
    let context: u64 = advice.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((900..2048).contains(&context), "{advice}");
    let context = context.to_string();
    assert_eq!(fit(&llama.plan(), &["--memory", &limit, "--context", &context]).code, 0);
    let ran = fit(&llama.plan(), &["--memory", "1KiB"]);
    assert_eq!(ran.code, 1);
    warpweft_tests::says(&ran.out, &["weights", "together", "what would make it fit"]);
    fit(&llama.plan(), &["--context", "4096"]).refuses(1, &["--context 4096", "2048 positions"]);
    let encoder = fit(text(&fixture("bert")), &ample);
    assert_eq!(encoder.code, 0, "{}", encoder.err);
    warpweft_tests::says(&encoder.out, &["embedding", "weights", "yes"]);
}
