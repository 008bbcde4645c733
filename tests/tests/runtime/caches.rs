//! Decoders with caches of each format: how far their scores are from transformers', and that all rows see the same keys
//! and values, however prompts are cut, sessions forked, rows cut off and pages forgotten.

use serde_json::{Value, json};
use warpweft_compiler::WeightChoice;
use warpweft_models::{Imported, import};
use warpweft_plan::{CacheFormat, Input, OutputKind, Plan, Role};
use warpweft_runtime::{Engine, Model, Part, Sampling, Session, block_on};
use warpweft_tests::{Copy, Reference, Runner, compiled_caching, fixture, plan_file, runners, worst};

fn open(model: &Imported, runner: &Runner, format: CacheFormat, change: impl FnOnce(&mut Plan)) -> Model {
    let mut compiled = compiled_caching(model, &[&runner.target.name], WeightChoice::Keep, format);
    change(&mut compiled.plan);
    runner.open(plan_file(model, &compiled))
}

/// Logits of every row, with the ids cut in pieces.
fn logits(engine: &mut Engine, ids: &[u32], piece: usize) -> (Session, Vec<f32>) {
    let mut session = engine.session().unwrap();
    let mut logits = Vec::new();
    for ids in ids.chunks(piece) {
        let part = Part { session: &mut session, ids };
        logits.extend(block_on(engine.advance(OutputKind::Logits, &mut [part])).unwrap().values);
    }
    (session, logits)
}

/// What is written after `ids`.
fn written(model: &mut Model, session: &mut Session, ids: &[u32], count: usize) -> Vec<u32> {
    let sampling = Sampling { max_tokens: count, ignore_eos: true, ..Sampling::default() };
    session.generate_ids(model, ids, &sampling).unwrap().map(|event| event.unwrap().token.id).collect()
}

/// How much a fixture's scores change if all that its layers compute is rounded to eleven bits: its reference says so.
fn yardstick(name: &str) -> f32 {
    let text = std::fs::read_to_string(fixture(name).join("reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    reference["noise_2^-11"]["max_abs_logit_diff"].as_f64().unwrap() as f32
}

/// With 16-bit floats, which is what models get unless something else is asked for.
fn in_f16(name: &'static str) {
    let (model, reference) = (import(&fixture(name)).unwrap(), Reference::of(name));
    let (prompt, greedy) = (reference.ids("input_ids"), reference.ids("greedy_ids"));
    let runners = runners();
    let runner = &runners[name.len() % runners.len()];
    let mut opened = open(&model, runner, CacheFormat::default(), |_| ());
    for piece in [prompt.len(), 7] {
        let (mut session, found) = logits(opened.engine_mut(), &prompt, piece);
        let (difference, most) = (worst(&found, &reference.floats("logits")), yardstick(name));
        println!("{name} {runner}, pieces of {piece}: {difference:.1e} of {most:.1e}");
        assert!(difference <= most, "{name} {runner}, pieces of {piece}: off by {difference:e}, above {most:e}");
        assert_eq!(session.truncate(prompt.len() - 1), prompt.len() - 1);
        let last = &prompt[prompt.len() - 1..];
        assert_eq!(written(&mut opened, &mut session, last, greedy.len()), greedy, "{name} {runner}");
    }
}

// Rotations; norms of heads too; neither.
warpweft_tests::decoder_fixtures! { in_f16:
    llama = "llama",
    qwen3 = "qwen3",
    gpt2 = "gpt2",
}

fn mean_square(a: &[f32], b: &[f32]) -> f64 {
    let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    a.iter().zip(b).map(square).sum::<f64>() / a.len() as f64
}

/// Rows see keys and values as they are stored, those of the same step too: so however a prompt is cut, the same is
/// computed, but for values so near the middle of two codes that the order of a sum decides. That is far less than what
/// the format itself changes.
#[test]
fn prompts_in_pieces_see_what_whole_ones_see() {
    let runners = runners();
    let cases = [("llama", CacheFormat::F16), ("llama", CacheFormat::Int8), ("gemma2", CacheFormat::Fp8)];
    for ((name, format), runner) in cases.into_iter().zip(runners.iter().cycle()) {
        let (model, reference) = (import(&fixture(name)).unwrap(), Reference::of(name));
        let (prompt, exact) = (reference.ids("input_ids"), reference.floats("logits"));
        let mut opened = open(&model, runner, format, |_| ());
        let (_, whole) = logits(opened.engine_mut(), &prompt, prompt.len());
        let changed = mean_square(&whole, &exact);
        for piece in [1, 7, 16] {
            let (_, found) = logits(opened.engine_mut(), &prompt, piece);
            let apart = mean_square(&found, &whole);
            println!("{name} {runner} {format}, pieces of {piece}: {apart:.1e}, the format {changed:.1e}");
            assert!(apart <= 0.04 * changed, "{name} {runner} {format}, pieces of {piece}: {apart:e} {changed:e}");
        }
    }
}

#[test]
fn forks_and_cuts_keep_what_is_stored() {
    let (model, reference) = (import(&fixture("llama")).unwrap(), Reference::of("llama"));
    let (prompt, runners) = (reference.ids("input_ids"), runners());
    for (format, runner) in [CacheFormat::F16, CacheFormat::Int8].into_iter().zip(runners.iter().cycle()) {
        let mut opened = open(&model, runner, format, |_| ());
        let mut session = opened.session().unwrap();
        let expected = written(&mut opened, &mut session, &prompt, 16);
        println!("{format}: as the reference: {}", expected == reference.ids("greedy_ids")[..16]);
        // A fork in the middle of a page, which is copied when the first of both goes on.
        let mut trunk = opened.session().unwrap();
        written(&mut opened, &mut trunk, &prompt, 1);
        let mut other = trunk.fork();
        assert_eq!(other.truncate(prompt.len() - 3), prompt.len() - 3);
        written(&mut opened, &mut other, &[prompt[0]], 4);
        assert_eq!(trunk.truncate(prompt.len() - 1), prompt.len() - 1);
        let last = &prompt[prompt.len() - 1..];
        assert_eq!(written(&mut opened, &mut trunk, last, 16), expected, "{format} {runner}: beside a fork");
        let kept = session.truncate(5);
        assert_eq!(written(&mut opened, &mut session, &prompt[kept..], 16), expected, "{format} {runner}: after a cut");
    }
}

/// Where a row lies changes nothing: the same, bit for bit, as if no row was ever forgotten.
#[test]
fn windows_forget_what_is_not_seen() {
    let copy = Copy::of("mistral").with_layers(2).set("max_position_embeddings", json!(256));
    let model = copy.set("sliding_window", json!(33)).import();
    let ids: Vec<u32> = (0..200).map(|i| (3 + (i * 101 + i * i * 7) % 634) as u32).collect();
    let runners = runners();
    for (format, runner) in [CacheFormat::Int8, CacheFormat::F16].into_iter().zip(runners.iter().cycle()) {
        let keep = |plan: &mut Plan| {
            for buffer in &mut plan.buffers {
                buffer.role = match buffer.role {
                    Role::Cache { rows, .. } => Role::Cache { window: None, rows },
                    Role::Input(Input::WindowPages) => Role::Input(Input::Pages),
                    other => other,
                };
            }
        };
        let (mut forgetting, mut keeping) = (open(&model, runner, format, |_| ()), open(&model, runner, format, keep));
        for piece in [1, 50] {
            let (session, found) = logits(forgetting.engine_mut(), &ids, piece);
            assert!(forgetting.engine().window_rows() - forgetting.engine().free_window_rows() < 150);
            assert_eq!(found, logits(keeping.engine_mut(), &ids, piece).1, "{format} {runner}, pieces of {piece}");
            drop(session);
        }
    }
}
