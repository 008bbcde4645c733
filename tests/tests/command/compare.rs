//! Models beside a baseline.

use std::fs;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use warpweft_tests::{Reference, fixture};

use crate::results::only_tensor;
use crate::{Built, floats, list, run, text};

/// The same fixture with other weights, next to `built`.
fn coarser(built: &Built, fixture_name: &str, weights: &str) -> String {
    let plan = built.file("coarser.weft");
    let folder = fixture(fixture_name);
    let ran = run(&["build", text(&folder), "-o", text(&plan), "--targets", "webgpu", "--weights", weights]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    text(&plan).to_owned()
}

fn write_ids(built: &Built, ids: &[u32]) -> String {
    let file = built.file("ids.safetensors");
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::I64, vec![ids.len()], &bytes).unwrap();
    safetensors::serialize_to_file([("ids", view)], None, &file).unwrap();
    text(&file).to_owned()
}

/// Log-probabilities of every token after every id, as the command's own logits have them.
fn log_probabilities(built: &Built, plan: &str, ids: &[u32]) -> Vec<Vec<f64>> {
    let out = built.file("logits.safetensors");
    assert_eq!(run(&["logits", plan, "--ids", &list(ids), "-o", text(&out)]).code, 0);
    let (_, shape, values) = only_tensor(&out);
    let row = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&score| f64::from(score).exp()).sum();
        row.iter().map(|&score| f64::from(score) - sum.ln()).collect()
    };
    values.chunks(shape[1]).map(row).collect()
}

fn first(row: &[f64]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap()
}

#[test]
fn a_model_is_as_far_from_its_baseline_as_the_logits_are() {
    let built = Built::of_fixture("gpt2");
    let (plan, other) = (text(&built.plan()).to_owned(), coarser(&built, "gpt2", "bf16"));
    let ids = Reference::of("gpt2").ids("input_ids");
    let file = write_ids(&built, &ids);
    let eval = |model: &str, baseline: &str, more: &[&str]| {
        run(&[&["eval", model, "--baseline", baseline, "--ids", &file, "--json"], more].concat()).json()
    };
    let itself = eval(&plan, &plan, &[]);
    let against = &itself["baseline"];
    assert_eq!((&against["perplexity"], number(against, "perplexity_ratio")), (&itself["perplexity"], 1.0));
    assert_eq!((number(against, "kl_divergence"), number(against, "top1_agreement")), (0.0, 1.0));
    assert_eq!(against["model"], "gpt2");
    // Without a baseline nothing is said of one.
    let alone = run(&["eval", &plan, "--ids", &file, "--json"]).json();
    assert_eq!((&alone["baseline"], &alone["perplexity"]), (&Value::Null, &itself["perplexity"]));
    // The definition, over what `logits` says. The last row has no token after it.
    let (p, q) = (log_probabilities(&built, &plan, &ids), log_probabilities(&built, &other, &ids));
    let scored = ids.len() - 1;
    let mean = |of: &dyn Fn(usize) -> f64| (0..scored).map(of).sum::<f64>() / scored as f64;
    let divergence = mean(&|row| p[row].iter().zip(&q[row]).map(|(p, q)| p.exp() * (p - q)).sum());
    let loss = |rows: &[Vec<f64>]| mean(&|row| -rows[row][ids[row + 1] as usize]);
    let agreement = mean(&|row| f64::from(u8::from(first(&p[row]) == first(&q[row]))));
    let report = eval(&other, &plan, &[]);
    let against = &report["baseline"];
    println!("{report}");
    // Both go through the same steps, so only the order of sums in f64 differs.
    let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-9 * expected.abs();
    assert!(close(number(against, "kl_divergence"), divergence) && divergence > 1e-8, "{divergence}: {against}");
    assert!(close(number(against, "nll_per_token"), loss(&p)), "{against}");
    assert!(close(number(&report, "nll_per_token"), loss(&q)), "{report}");
    assert!(close(number(against, "perplexity_ratio"), (loss(&q) - loss(&p)).exp()), "{against}");
    assert_eq!(number(against, "top1_agreement"), agreement);
    // bf16 keeps eight bits: what it changes is small.
    assert!(divergence < 1e-3 && (number(against, "perplexity_ratio") - 1.0).abs() < 0.01, "{against}");
    // The other way round it is another divergence, and chunks leave their first tokens out for both.
    assert_ne!(eval(&plan, &other, &[])["baseline"]["kl_divergence"], against["kl_divergence"]);
    let chunks = eval(&other, &plan, &["--context", "10"]);
    assert_eq!(chunks["scored_tokens"], json!(ids.len() - ids.len().div_ceil(10)));
    assert!(number(&chunks["baseline"], "kl_divergence") > 0.0);
    let people = run(&["eval", &other, "--baseline", &plan, "--ids", &file]);
    assert_eq!(people.code, 0, "{}", people.err);
    warpweft_tests::says(&people.out, &["perplexity", "against gpt2", "ratio", "KL divergence", "first token"]);
}

#[test]
fn encoders_are_compared_by_vectors() {
    let built = Built::of_fixture("bert");
    let (plan, other) = (text(&built.plan()).to_owned(), coarser(&built, "bert", "bf16"));
    let texts = built.file("lines.txt");
    fs::write(&texts, "Hello, world!\na cat sat on the mat\n\nanother line\n").unwrap();
    let eval = |model: &str| run(&["eval", model, "--baseline", &plan, "--text", text(&texts), "--json"]).json();
    let itself = eval(&plan);
    assert_eq!(itself["texts"], 4);
    for key in ["mean_cosine", "least_cosine"] {
        assert!((number(&itself["baseline"], key) - 1.0).abs() < 1e-12, "{itself}");
    }
    let vectors = |plan: &str| floats(&run(&["embed", plan, "--input", text(&texts), "--json"]).json()["embeddings"]);
    let (found, expected) = (vectors(&other), vectors(&plan));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let cosines: Vec<f64> =
        found.chunks(64).zip(expected.chunks(64)).map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).collect();
    let least = (0..cosines.len()).min_by(|&a, &b| cosines[a].total_cmp(&cosines[b])).unwrap();
    let report = eval(&other);
    let against = &report["baseline"];
    println!("{report}");
    assert!((number(against, "mean_cosine") - cosines.iter().sum::<f64>() / 4.0).abs() < 1e-7, "{against} {cosines:?}");
    assert!((number(against, "least_cosine") - cosines[least]).abs() < 1e-7, "{against} {cosines:?}");
    assert_eq!(against["least_line"], least + 1);
    assert!((0.999..1.0 - 1e-8).contains(&cosines[least]), "{cosines:?}");
    let people = run(&["eval", &other, "--baseline", &plan, "--text", text(&texts)]);
    warpweft_tests::says(&people.out, &["against bert", "cosine similarity", "at the least (line"]);
    // What cannot be compared.
    let ids = write_ids(&built, &[1, 2, 3]);
    run(&["eval", &plan, "--baseline", &plan, "--ids", &ids]).refuses(2, &["--text FILE", "one text per line"]);
    fs::write(&texts, "").unwrap();
    run(&["eval", &plan, "--baseline", &plan, "--text", text(&texts)]).refuses(1, &["no texts"]);
}

#[test]
fn other_vocabularies_and_tokenizers_are_refused() {
    let (gpt2, neox) = (Built::of_fixture("gpt2"), Built::of_fixture("gpt_neox"));
    let ids = write_ids(&gpt2, &[1, 2, 3]);
    run(&["eval", text(&gpt2.plan()), "--baseline", text(&neox.plan()), "--ids", &ids])
        .refuses(1, &["gpt2 has 512 tokens", "gpt_neox has 520", "cannot be compared"]);
    let (llama, bert) = (Built::of_fixture("llama"), Built::of_fixture("bert"));
    let file = llama.file("text.txt");
    fs::write(&file, "Rust automatically called drop.").unwrap();
    let against = |other: &Built, input: [&str; 2]| {
        run(&["eval", text(&llama.plan()), "--baseline", text(&other.plan()), input[0], input[1]])
    };
    // As many tokens, but others; then more of them.
    against(&gpt2, ["--text", text(&file)])
        .refuses(1, &["token 1 of the text is 319 for llama", "318 for the baseline gpt2", "tokenizers differ"]);
    fs::write(&file, "the   fn main() { 1234 }\n\nÜber 12345").unwrap();
    against(&gpt2, ["--text", text(&file)])
        .refuses(1, &["llama makes 27 tokens", "baseline gpt2 makes 26", "tokenizers differ"]);
    // The same ids are the same question.
    assert_eq!(against(&gpt2, ["--ids", &ids]).code, 0);
    against(&bert, ["--ids", &ids]).refuses(1, &["no output logits", "hint: "]);
    run(&["eval", text(&llama.plan()), "--baseline", "nowhere.weft", "--ids", &ids]).refuses(1, &["nowhere.weft"]);
}
