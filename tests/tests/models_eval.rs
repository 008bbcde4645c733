//! Every encoder, from its checkpoint through the CPU reference evaluator, against Hugging Face transformers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use warpweft_compiler::graph::eval::{SourceInputs, Tensor, evaluate};
use warpweft_models::{Imported, import};
use warpweft_plan::OutputKind;

fn tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `reference.safetensors` of a fixture.
struct Reference(Vec<u8>);

impl Reference {
    fn of(fixture: &str) -> Reference {
        Reference(fs::read(tests().join("fixtures").join(fixture).join("reference.safetensors")).unwrap())
    }

    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    /// Shape and bytes.
    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.tensor(name).1.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        self.tensor(name).1.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    }

    /// The texts of the batch, each with its first row in the padded batch.
    fn texts(&self) -> Vec<(usize, Vec<u32>)> {
        let longest = self.tensor("batch_input_ids").0[1];
        let (ids, mask) = (self.ids("batch_input_ids"), self.ids("batch_attention_mask"));
        let rows = ids.chunks(longest).zip(mask.chunks(longest)).enumerate();
        rows.map(|(i, (ids, mask))| (i * longest, ids[..mask.iter().sum::<u32>() as usize].to_vec())).collect()
    }
}

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
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, |a, b| if b > a { b } else { a });
    assert!(found.iter().all(|x| x.is_finite()) && worst <= tolerance, "{what}: off by {worst:e}");
    println!("{what}: {worst:.1e}");
}

/// The evaluator sums in f64, so what remains is the rounding of transformers' fp32 run.
const HIDDEN: f32 = 2e-5;
const LOGITS: f32 = 5e-5;

fn check(fixture: &str) {
    let model = import(&tests().join("fixtures").join(fixture)).unwrap();
    let reference = Reference::of(fixture);
    let single = run(&model, &reference.ids("input_ids"));
    close(&format!("{fixture} hidden"), &single.hidden.data, &reference.floats("last_hidden_state"), HIDDEN);
    assert_eq!(single.logits.is_some(), reference.has("logits"));
    if let Some(logits) = single.logits {
        close(&format!("{fixture} logits"), &logits.data, &reference.floats("logits"), LOGITS);
    }
    let width = single.hidden.shape[1];
    let (batch, pooled) = (reference.floats("batch_last_hidden_state"), reference.floats("batch_pooled"));
    for (i, (first, ids)) in reference.texts().into_iter().enumerate() {
        let alone = run(&model, &ids);
        let rows = &batch[first * width..][..ids.len() * width];
        close(&format!("{fixture} text {i} hidden"), &alone.hidden.data, rows, HIDDEN);
        close(&format!("{fixture} text {i} embedding"), &alone.embedding.data, &pooled[i * width..][..width], HIDDEN);
        if let Some(logits) = alone.logits {
            let ((shape, _), expected) = (reference.tensor("batch_logits"), reference.floats("batch_logits"));
            let columns = shape[2];
            let found: Vec<f32> =
                logits.data.chunks(logits.shape[1]).flat_map(|row| &row[..columns]).copied().collect();
            close(&format!("{fixture} text {i} logits"), &found, &expected[first * columns..][..found.len()], LOGITS);
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
    for (fixture, field, value) in fields {
        let folder = tempfile::tempdir().unwrap();
        let original = tests().join("fixtures").join(fixture);
        for file in ["config.json", "model.safetensors"] {
            fs::copy(original.join(file), folder.path().join(file)).unwrap();
        }
        let path = folder.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(&path, config.to_string()).unwrap();
        let reference = Reference::of(fixture);
        let found = run(&import(folder.path()).unwrap(), &reference.ids("input_ids")).logits.unwrap();
        let expected = reference.floats("logits");
        let worst = found.data.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{fixture} {field}: {worst:.1e}");
        assert!(worst > 1e-3, "{fixture}: another {field} changes the logits by {worst:e} only");
    }
}

/// The published all-MiniLM-L6-v2, which `make` fetches.
fn minilm() -> PathBuf {
    let folder = std::env::var_os("WARPWEFT_MINILM").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| tests().join("../target/models/minilm"));
    assert!(folder.join("config.json").exists(), "no model in {}: run `make models`", folder.display());
    folder
}

#[test]
fn minilm_matches_its_reference() {
    let model = import(&minilm()).unwrap();
    assert_eq!((model.info.layers, model.info.max_positions, model.info.max_text_tokens), (6, 512, 256));
    assert_eq!(model.graph.declarations().weights.len(), 101);
    let reference = Reference::of("minilm-reference");
    let expected = reference.floats("embeddings");
    let text = fs::read_to_string(tests().join("fixtures/minilm-reference/reference.json")).unwrap();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (i, row) in rows["rows"].as_array().unwrap().iter().enumerate() {
        let ids: Vec<u32> = row["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let found = run(&model, &ids);
        close(&format!("minilm {} tokens", ids.len()), &found.embedding.data, &expected[i * 384..][..384], 1e-6);
    }
}
