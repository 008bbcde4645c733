//! Every encoder, from its checkpoint through the CPU reference evaluator, against Hugging Face transformers.

use std::fs;

use warpweft_compiler::graph::eval::{SourceInputs, Tensor, evaluate};
use warpweft_models::{Imported, import};
use warpweft_plan::OutputKind;
use warpweft_tests::{Copy, Reference, fixture, minilm, worst};

/// What the model computes for one text.
struct Outputs {
    hidden: Tensor,
    embedding: Tensor,
    logits: Option<Tensor>,
}

fn run(model: &Imported, ids: &[u32]) -> Outputs {
    let values = evaluate(&model.graph, &SourceInputs { source: &model.weights, ids: ids.to_vec() }).unwrap();
    let find = |kind: OutputKind| model.graph.outputs().iter().position(|o| o.name == kind.name());
    let value = |kind: OutputKind| find(kind).map(|i| values[i].clone());
    Outputs {
        hidden: value(OutputKind::Hidden).unwrap(),
        embedding: value(OutputKind::Embedding).unwrap(),
        logits: value(OutputKind::Logits),
    }
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let worst = worst(found, expected);
    println!("{what}: {worst:.1e}");
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

/// The evaluator sums in f64, so what remains is the rounding of transformers' fp32 run.
const HIDDEN: f32 = 2e-5;
const LOGITS: f32 = 5e-5;

fn check(name: &str) {
    let model = import(&fixture(name)).unwrap();
    let reference = Reference::of(name);
    let single = run(&model, &reference.ids("input_ids"));
    close(&format!("{name} hidden"), &single.hidden.data, &reference.floats("last_hidden_state"), HIDDEN);
    assert_eq!(single.logits.is_some(), reference.has("logits"));
    if let Some(logits) = single.logits {
        close(&format!("{name} logits"), &logits.data, &reference.floats("logits"), LOGITS);
    }
    for (i, text) in reference.texts().into_iter().enumerate() {
        let alone = run(&model, &text.ids);
        close(&format!("{name} text {i} hidden"), &alone.hidden.data, &text.hidden, HIDDEN);
        close(&format!("{name} text {i} embedding"), &alone.embedding.data, &text.pooled, HIDDEN);
        if let (Some(logits), Some(expected)) = (alone.logits, text.logits) {
            let rows = logits.data.chunks(logits.shape[1]);
            let found: Vec<f32> = rows.flat_map(|row| &row[..Reference::BATCH_LOGITS]).copied().collect();
            close(&format!("{name} text {i} logits"), &found, &expected, LOGITS);
        }
    }
}

#[test]
fn bert() {
    check("bert");
}

#[test]
fn bert_with_head() {
    check("bert-mlm");
}

#[test]
fn roberta() {
    check("roberta");
}

#[test]
fn xlm_roberta() {
    check("xlm-roberta");
}

#[test]
fn distilbert() {
    check("distilbert");
}

#[test]
fn modernbert() {
    check("modernbert");
}

/// A misread field has to show in the references, or they prove nothing about it.
#[test]
fn a_misread_config_shows() {
    let fields: [(&str, &str, serde_json::Value); 9] = [
        ("bert-mlm", "hidden_act", "gelu_new".into()),
        ("bert-mlm", "layer_norm_eps", 1e-3.into()),
        ("bert-mlm", "num_attention_heads", 2.into()),
        ("roberta", "pad_token_id", 0.into()),
        ("distilbert", "activation", "gelu_new".into()),
        ("modernbert", "local_attention", 18.into()),
        ("modernbert", "local_rope_theta", 160_000.0.into()),
        ("modernbert", "global_attn_every_n_layers", 2.into()),
        ("modernbert", "classifier_activation", "relu".into()),
    ];
    for (name, field, value) in fields {
        let model = Copy::of(name).set(field, value).import();
        let reference = Reference::of(name);
        let found = run(&model, &reference.ids("input_ids")).logits.unwrap();
        let worst = worst(&found.data, &reference.floats("logits"));
        println!("{name} {field}: {worst:.1e}");
        assert!(worst > 1e-3, "{name}: another {field} changes the logits by {worst:e} only");
    }
}

#[test]
fn minilm_matches_its_reference() {
    let model = import(&minilm()).unwrap();
    assert_eq!((model.info.layers, model.info.max_positions, model.info.max_text_tokens), (6, 512, 256));
    assert_eq!(model.graph.declarations().weights.len(), 101);
    let reference = Reference::of("minilm-reference");
    let expected = reference.floats("embeddings");
    let text = fs::read_to_string(fixture("minilm-reference").join("reference.json")).unwrap();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (i, row) in rows["rows"].as_array().unwrap().iter().enumerate() {
        let ids: Vec<u32> = row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let found = run(&model, &ids);
        close(&format!("minilm {} tokens", ids.len()), &found.embedding.data, &expected[i * 384..][..384], 1e-6);
    }
}
