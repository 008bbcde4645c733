//! Every encoder, compiled and run where its turn is, against Hugging Face transformers.

use warpweft_compiler::target::Target;
use warpweft_compiler::{Options, WeightChoice, compile};
use warpweft_models::import;
use warpweft_plan::Role;
use warpweft_runtime::Model;
use warpweft_tests::{Reference, compiled, fixture, plan_file, runners_of, worst};

/// fp32 arithmetic; a wrong GELU or epsilon costs more than that.
const HIDDEN: f32 = 2e-4;
const LOGITS: f32 = 5e-4;
/// Of embeddings: unit vectors, or means of hidden states.
const EMBEDDING: f32 = 2e-4;

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let worst = worst(found, expected);
    println!("{what}: {worst:.1e}");
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

fn check(name: &str) {
    let imported = import(&fixture(name)).unwrap();
    let reference = Reference::of(name);
    for target in runners_of(name) {
        let compiled = compiled(&imported, &[&target.target.name], WeightChoice::Keep);
        let mut model = target.open(plan_file(&imported, &compiled));
        let ids = reference.ids("input_ids");
        let hidden = model.hidden_ids(&[&ids]).unwrap();
        close(&format!("{name} {target} hidden"), &hidden.values, &reference.floats("last_hidden_state"), HIDDEN);
        if reference.has("logits") {
            let logits = model.logits_ids(&[&ids]).unwrap();
            close(&format!("{name} {target} logits"), &logits.values, &reference.floats("logits"), LOGITS);
        }
        let texts = reference.texts();
        let all: Vec<&[u32]> = texts.iter().map(|t| t.ids.as_slice()).collect();
        let together = model.hidden_ids(&all).unwrap();
        let expected: Vec<f32> = texts.iter().flat_map(|t| t.hidden.iter().copied()).collect();
        close(&format!("{name} {target} batch hidden"), &together.values, &expected, HIDDEN);
        let pooled = model.embed_ids(&all).unwrap();
        let expected: Vec<f32> = texts.iter().flat_map(|t| t.pooled.iter().copied()).collect();
        close(&format!("{name} {target} batch embedding"), &pooled.values, &expected, EMBEDDING);
        for text in &texts {
            let one = model.hidden_ids(&[&text.ids[..1]]).unwrap();
            assert_eq!(one.rows, 1, "a single token");
            let alone = model.embed_ids(&[&text.ids]).unwrap();
            close(&format!("{name} {target} alone"), &alone.values, &text.pooled, EMBEDDING);
        }
    }
}

#[test]
fn bert() {
    check("bert");
}

#[test]
fn bert_with_odd_sizes_and_a_head() {
    check("bert-mlm");
}

#[test]
fn distilbert() {
    check("distilbert");
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
fn modernbert() {
    check("modernbert");
}

#[test]
fn weights_above_the_binding_limit_are_split() {
    let imported = import(&fixture("bert-mlm")).unwrap();
    let reference = Reference::of("bert-mlm");
    let mut small = Target::named("webgpu").unwrap().clone();
    // 64 rows of 124 columns, 128 rows of 60: the vocabulary of 509 takes four windows.
    small.limits.binding_bytes = 64 * 128 * 4;
    let options =
        Options { targets: vec![Box::leak(Box::new(small))], weights: WeightChoice::Keep, ..Options::default() };
    let compiled = compile(&imported.graph, &imported.info, &options, &mut |_| ()).unwrap();
    let split = compiled.plan.buffers.iter().filter(|b| matches!(b.role, Role::Weight { offset: 1.., .. })).count();
    assert!(split >= 6, "three windows after the first, of the embedding and of the head's bias; found {split}");
    let mut model = Model::from_plan(plan_file(&imported, &compiled), &Default::default(), &mut |_| ()).unwrap();
    let ids = reference.ids("input_ids");
    let logits = model.logits_ids(&[&ids]).unwrap();
    close("logits through windows", &logits.values, &reference.floats("logits"), LOGITS);
}
