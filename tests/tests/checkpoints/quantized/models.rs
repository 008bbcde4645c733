//! Whole checkpoints in each layout, against the same checkpoint with the values that it stands for, as floats.

use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use warpweft_compiler::WeightChoice;
use warpweft_models::Imported;
use warpweft_plan::OutputKind;
use warpweft_runtime::{Part, block_on};
use warpweft_tests::{Copy, Random, Reference, Tensors, compiled, plan_file, recomputed, runners, worst};

use super::write::{Kind, Matrix};
use super::{KINDS, NF4, shuffled};

/// As for fixtures that are not quantized.
const LOGITS: f32 = 5e-4;

/// A fixture whose layers' matrices are quantized, and the same with the values of the codes.
pub(crate) fn pair(fixture: &str, kind: Kind) -> [Copy; 2] {
    let (mut quantized, mut floats) = (Tensors::new(), Tensors::new());
    let copy = Copy::of(fixture).tensors(|tensors| {
        for (name, tensor) in std::mem::take(tensors) {
            if !is_quantized(&name, &tensor.1) {
                quantized.insert(name.clone(), tensor.clone());
                floats.insert(name, tensor);
                continue;
            }
            let (mut rows, mut columns) = (tensor.1[0], tensor.1[1]);
            let mut data = decoded(tensor.0, &tensor.2);
            // Quantizers turn the weights of GPT-2 around.
            let turned = fixture == "gpt2";
            if turned {
                data = transposed(&data, rows, columns);
                (rows, columns) = (columns, rows);
            }
            // Those that share an input share the order, because it depends on the input alone.
            let input = name.replace("k_proj", "q_proj").replace("v_proj", "q_proj").replace("up_proj", "gate_proj");
            let seed = input.bytes().fold(7, |h: u64, b| h.wrapping_mul(31).wrapping_add(b.into()));
            let order = shuffled(columns, &mut Random::new(seed));
            let mut values = kind.write(&name, &Matrix { rows, columns, data }, &order, &mut quantized);
            // Some tools give a bias to layers that have none; the layer's own has to stay.
            if turned {
                values = transposed(&values, rows, columns);
            }
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            floats.insert(name, (Dtype::F32, tensor.1, bytes));
        }
        for (name, tensor) in &floats {
            if name.ends_with(".bias") {
                quantized.insert(name.clone(), tensor.clone());
            }
        }
    });
    let floats = Copy::of(fixture).tensors(|tensors| *tensors = floats);
    let quantized = copy.tensors(|tensors| *tensors = quantized).set("quantization_config", kind.config());
    [quantized, floats]
}

fn is_quantized(name: &str, shape: &[usize]) -> bool {
    let in_layer = ["layers.", "h."].iter().any(|layers| name.contains(layers));
    in_layer && name.ends_with(".weight") && shape.len() == 2
}

fn decoded(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        other => panic!("{other:?} in a fixture"),
    }
}

fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| data[i % rows * columns + i / rows]).collect()
}

fn logits(model: &Imported, ids: &[u32]) -> Vec<f32> {
    recomputed(model, ids).get(OutputKind::Logits).data.clone()
}

/// Which fixture can have that layout.
fn of(kind: Kind) -> &'static str {
    // MXFP4 has no blocks of less than 32 columns.
    if kind == Kind::Mxfp4 { "qwen3" } else { "llama" }
}

#[test]
fn models_mean_what_their_codes_stand_for() {
    let mut kinds: Vec<(Kind, &str)> = KINDS.into_iter().chain(NF4).map(|kind| (kind, of(kind))).collect();
    let plain = Kind::Gptq { bits: 4, size: Some(32), symmetric: false, ordered: false, second: false };
    kinds.extend([(plain, "phi3"), (KINDS[16], "gpt_neox"), (plain, "gpt2"), (Kind::Nf4 { nested: true }, "gpt2")]);
    kinds.extend([
        (KINDS[1], "phi3"),
        (KINDS[1], "gpt2"),
        (KINDS[15], "gpt_neox"),
        (Kind::Fp8Blocks, "gpt_neox"),
        (Kind::Bytes, "gemma2"),
    ]);
    for (kind, fixture) in kinds {
        let ids = &Reference::of(fixture).ids("input_ids")[..9];
        let [quantized, floats] = pair(fixture, kind).map(|copy| logits(&copy.import(), ids));
        // In another order of columns, sums in f64 round another way.
        let difference = worst(&quantized, &floats);
        assert!(difference <= 1e-5, "{fixture} {kind:?}: off by {difference:e}");
    }
}

/// A layout for each format; the first has columns in another order.
const FORMATS: [Kind; 5] =
    [KINDS[1], Kind::Awq { size: Some(32) }, Kind::Fp8Blocks, Kind::Mxfp4, Kind::Nf4 { nested: true }];

#[test]
fn models_run_as_their_float_copies() {
    for (i, kind) in FORMATS.into_iter().enumerate() {
        let fixture = of(kind);
        let reference = Reference::of(fixture);
        let prompt = reference.ids("input_ids");
        let [quantized, floats] = pair(fixture, kind).map(|copy| copy.import());
        let expected = logits(&floats, &prompt);
        let all = runners();
        // All tiers for the first, in turns one for the others.
        let some = if i == 0 { 0..all.len() } else { i % all.len()..i % all.len() + 1 };
        for runner in &all[some] {
            let compiled = compiled(&quantized, &[&runner.target.name], WeightChoice::Keep);
            let mut model = runner.open(plan_file(&quantized, &compiled));
            let whole = model.logits_ids(&[&prompt]).unwrap().values;
            let difference = worst(&whole, &expected);
            println!("{fixture} {kind:?} {runner}: {difference:.1e}");
            assert!(difference <= LOGITS, "{fixture} {kind:?} {runner}: off by {difference:e}");
            for piece in [1, 7] {
                let mut session = model.session().unwrap();
                let mut found = Vec::new();
                for ids in prompt.chunks(piece) {
                    let part = Part { session: &mut session, ids };
                    found.extend(block_on(model.engine_mut().advance(OutputKind::Logits, &mut [part])).unwrap().values);
                }
                let difference = worst(&found, &expected);
                assert!(difference <= LOGITS, "{fixture} {kind:?} {runner}, pieces of {piece}: off by {difference:e}");
            }
        }
    }
}

/// Plans hold the codes: no copy of a weight as floats.
#[test]
fn plans_keep_the_size() {
    for kind in FORMATS {
        let model = pair(of(kind), kind)[0].import();
        let compiled = compiled(&model, &["webgpu"], WeightChoice::Keep);
        let planned: u64 = compiled.plan.tensors.iter().map(|t| t.bytes().unwrap()).sum();
        let stored: u64 = model
            .graph
            .declarations()
            .weights
            .iter()
            .map(|w| model.weights.get(&w.name).unwrap().bytes.len() as u64)
            .sum();
        // Padding of rows, and what pieces of vectors cost.
        assert!(planned < stored + stored / 8, "{kind:?}: {planned} bytes for {stored}");
    }
}

#[test]
fn random_weights_are_not_quantized() {
    let [quantized, _] = pair("llama", KINDS[0]);
    let error = warpweft_models::import_config(quantized.path()).map(|_| ()).unwrap_err().to_string();
    warpweft_tests::says(&error, &["config.json", "quantization_config", "gptq", "random weights"]);
}

#[test]
fn settings_without_quantized_tensors_change_nothing() {
    let ids = &Reference::of("llama").ids("input_ids")[..5];
    let set = |value: Value| Copy::of("llama").set("quantization_config", value).import();
    let plain = logits(&Copy::of("llama").import(), ids);
    assert_eq!(logits(&set(Kind::Fp8Blocks.config()), ids), plain);
    assert_eq!(logits(&set(json!(null)), ids), plain);
}
