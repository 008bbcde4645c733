//! Every decoder, from its checkpoint through the CPU reference evaluator, against Hugging Face transformers.

use serde_json::{Value, json};
use warpweft_models::import;
use warpweft_plan::OutputKind;
use warpweft_tests::{Copy, Decoder, Reference, demo, fixture, recomputed, worst};

/// The evaluator sums in f64, so what remains is the rounding of transformers' fp32 run.
const LOGITS: f32 = 1e-4;

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let worst = worst(found, expected);
    println!("{what}: {worst:.1e}");
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

/// Logits of all rows of the prompt, whole and in pieces; then the greedy continuation, a row at a time.
fn check(name: &str) {
    let model = import(&fixture(name)).unwrap();
    let reference = Reference::of(name);
    let (prompt, expected) = (reference.ids("input_ids"), reference.floats("logits"));
    let vocab = model.info.vocab_size as usize;
    let whole = recomputed(&model, &prompt);
    let logits = &whole.get(OutputKind::Logits).data;
    close(&format!("{name} logits"), logits, &expected, LOGITS);
    let last = &logits[logits.len() - vocab..];
    close(&format!("{name} next"), &whole.get(OutputKind::Next).data, last, 1e-6);

    for size in [1, 7, 16] {
        let mut decoder = Decoder::new(&model);
        let pieces = prompt.chunks(size).map(|ids| decoder.step(ids).get(OutputKind::Logits).data.clone());
        close(&format!("{name} in pieces of {size}"), &pieces.collect::<Vec<_>>().concat(), logits, 1e-5);
    }

    let mut decoder = Decoder::new(&model);
    let mut step = decoder.step(&prompt);
    let (ids, scores) = (reference.ids("greedy_ids"), reference.floats("greedy_logits"));
    for (i, (&id, scores)) in ids.iter().zip(scores.chunks(vocab)).enumerate() {
        close(&format!("{name} greedy {i}"), &step.get(OutputKind::Next).data, scores, LOGITS);
        assert_eq!(step.greedy(), id, "{name}: token {i}");
        step = decoder.step(&[id]);
    }
}

warpweft_tests::decoder_fixtures!(check);

/// A trained model: the log-probability that it gives each next id of a text.
#[test]
fn rustdoc_lm() {
    let model = import(&demo().join("model")).unwrap();
    let reference = Reference::of_file(&demo().join("reference.safetensors"));
    let ids = reference.ids("input_ids");
    let step = recomputed(&model, &ids);
    let vocab = model.info.vocab_size as usize;
    let log_probability = |(row, &next): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        (f64::from(row[next as usize]) - sum.ln()) as f32
    };
    let logits = &step.get(OutputKind::Logits).data;
    let found: Vec<f32> = logits.chunks(vocab).zip(&ids[1..]).map(log_probability).collect();
    close("rustdoc-lm", &found, &reference.floats("logprob_of_next"), LOGITS);
    close("rustdoc-lm next", &step.get(OutputKind::Next).data, &reference.floats("logits_last"), LOGITS);
}

/// A misread field has to show in the references, or they prove nothing about it.
#[test]
fn a_misread_config_shows() {
    let yarn = |field: &str, value: Value| {
        let mut scaling = json!({
            "type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16, "beta_fast": 4.0, "beta_slow": 0.5
        });
        scaling[field] = value;
        scaling
    };
    let bases = |global: f64, factor: f64, local: f64| {
        json!({
            "full_attention": {"rope_type": "linear", "factor": factor, "rope_theta": global},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        })
    };
    let (full, sliding) = ("full_attention", "sliding_attention");
    let cases: Vec<(&str, &str, Value)> = vec![
        ("gemma2", "attn_logit_softcapping", json!(4.2)),
        ("gemma2", "attn_logit_softcapping", Value::Null),
        ("gemma2", "final_logit_softcapping", json!(12.1)),
        ("gemma2", "query_pre_attn_scalar", json!(24)),
        ("gemma2", "sliding_window", json!(17)),
        ("gemma2", "hidden_activation", json!("gelu")),
        ("gemma2", "rms_norm_eps", json!(1e-4)),
        ("gemma2", "layer_types", json!([full, sliding, full, sliding])),
        ("gemma3", "sliding_window", json!(10)),
        ("gemma3", "query_pre_attn_scalar", json!(18)),
        ("gemma3", "hidden_activation", json!("gelu")),
        ("gemma3", "layer_types", json!([sliding, sliding, sliding, sliding, full, sliding, sliding])),
        ("gemma3", "rope_parameters", bases(1e6, 4.0, 1e4)),
        ("gemma3", "rope_parameters", bases(1e5, 8.0, 1e4)),
        ("gemma3", "rope_parameters", bases(1e6, 8.0, 2e4)),
        ("gpt2", "activation_function", json!("gelu")),
        ("gpt2", "layer_norm_epsilon", json!(1e-3)),
        ("gpt2", "scale_attn_weights", json!(false)),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true)),
        ("gpt_neox", "rotary_pct", json!(0.5)),
        ("gpt_neox", "rotary_emb_base", json!(5000)),
        ("gpt_neox", "use_parallel_residual", json!(false)),
        ("gpt_neox", "hidden_act", json!("gelu_new")),
        ("gpt_neox", "layer_norm_eps", json!(1e-4)),
        ("llama", "rope_scaling", Value::Null),
        ("llama", "rope_theta", json!(400_000.0)),
        ("llama", "rms_norm_eps", json!(1e-4)),
        ("llama", "hidden_act", json!("gelu")),
        ("llama-sharded", "rope_theta", json!(20_000.0)),
        ("llama-yarn", "rope_scaling", yarn("type", json!("linear"))),
        ("llama-yarn", "rope_scaling", yarn("factor", json!(15.0))),
        ("llama-yarn", "rope_scaling", yarn("attention_factor", json!(1.0))),
        ("llama-yarn", "rope_scaling", yarn("beta_fast", json!(1.0))),
        ("llama-yarn", "rope_scaling", yarn("truncate", json!(false))),
        ("mistral", "sliding_window", json!(17)),
        ("mistral", "sliding_window", Value::Null),
        ("phi3", "original_max_position_embeddings", json!(63)),
        ("phi3", "rope_scaling", Value::Null),
        ("qwen2", "rope_theta", json!(10_000.0)),
        ("qwen3", "rms_norm_eps", json!(1e-4)),
    ];
    for (name, field, value) in cases {
        let what = format!("{name} {field} {value}");
        let model = Copy::of(name).set(field, value).import();
        let reference = Reference::of(name);
        let found = recomputed(&model, &reference.ids("input_ids"));
        let worst = worst(&found.get(OutputKind::Logits).data, &reference.floats("logits"));
        println!("{what}: {worst:.1e}");
        assert!(worst > 1e-3, "{what} changes the logits by {worst:e} only");
    }
}
