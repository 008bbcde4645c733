//! What is wrong with a quantized checkpoint is said with the file, the tensor, what was found and what was expected.

use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use warpweft_models::Checkpoint;
use warpweft_tests::{Copy, Random, Tensors, says};

use super::write::{Kind, Matrix};
use super::{KINDS, NF4, folder, quantization, shuffled, values};

const NAME: &str = "layers.0.mlp.up_proj.weight";
const ROWS: usize = 16;
const COLUMNS: usize = 64;

fn written(kind: Kind) -> Tensors {
    let mut random = Random::new(9);
    let weight = Matrix::random(ROWS, COLUMNS, &mut random);
    let mut tensors = Tensors::new();
    kind.write(NAME, &weight, &shuffled(COLUMNS, &mut random), &mut tensors);
    tensors
}

/// The weight's values, or why there are none.
fn read(settings: &Value, tensors: &Tensors) -> Result<Vec<f32>, String> {
    let folder = folder(settings, tensors);
    let checkpoint = Checkpoint::open(folder.path()).map_err(|e| e.to_string())?;
    let quantization = quantization(folder.path()).map_err(|e| e.to_string())?.unwrap();
    let found = quantization.find(&checkpoint, NAME, &[ROWS as u64, COLUMNS as u64]).map_err(|e| e.to_string())?;
    values(&checkpoint, &found.ok_or("there is no such weight")?).map_err(|e| e.to_string())
}

/// The message after a change of the tensor `X.part`.
fn changed(kind: Kind, part: &str, change: impl FnOnce(&mut (Dtype, Vec<usize>, Vec<u8>))) -> String {
    let mut tensors = written(kind);
    change(tensors.get_mut(&NAME.replace("weight", part)).unwrap());
    read(&kind.config(), &tensors).unwrap_err()
}

fn settings(kind: Kind, change: impl FnOnce(&mut Value)) -> String {
    let mut config = kind.config();
    change(&mut config);
    read(&config, &written(kind)).unwrap_err()
}

const GPTQ: Kind = KINDS[1];
const AWQ: Kind = Kind::Awq { size: Some(32) };
const PACKED: Kind = KINDS[15];
const NESTED: Kind = NF4[1];

#[test]
fn settings_that_are_not_supported() {
    let unknown = settings(GPTQ, |c| c["quant_method"] = json!("hqq"));
    says(
        &unknown,
        &["config.json", "quantization_config.quant_method", "\"hqq\"", "awq, bitsandbytes", "gptq", "mxfp4"],
    );
    says(&settings(GPTQ, |c| c["quant_method"] = json!(null)), &["quant_method", "found null", "one of awq"]);
    says(&settings(GPTQ, |c| c["bits"] = json!(3)), &["quantization_config.bits", "found 3", "4 or 8"]);
    says(&settings(GPTQ, |c| c["bits"] = json!("four")), &["bits", "four", "4 or 8"]);
    says(&settings(GPTQ, |c| c["group_size"] = json!(0)), &["group_size", "found 0", "-1"]);
    says(&settings(GPTQ, |c| c["checkpoint_format"] = json!("marlin")), &["checkpoint_format", "marlin", "gptq_v2"]);
    says(&settings(AWQ, |c| c["bits"] = json!(8)), &["bits", "found 8", "expected 4"]);
    says(&settings(AWQ, |c| c["version"] = json!("gemv")), &["version", "gemv", "gemm"]);
    says(&settings(AWQ, |c| c["zero_point"] = json!(false)), &["zero_point", "false", "true"]);
    says(&settings(Kind::Fp8Blocks, |c| c["weight_block_size"] = json!([128])), &["weight_block_size", "two sizes"]);
    says(&settings(Kind::Fp8Blocks, |c| c["fmt"] = json!("e5m2")), &["fmt", "e5m2", "e4m3"]);
    says(&settings(NESTED, |c| c["bnb_4bit_quant_type"] = json!("fp4")), &["bnb_4bit_quant_type", "fp4", "nf4"]);
    says(&settings(NESTED, |c| c["load_in_8bit"] = json!(true)), &["load_in_8bit", "true", "false"]);
    says(&settings(PACKED, |c| c["format"] = json!("marlin-24")), &["format", "marlin-24", "pack-quantized"]);
    says(&settings(PACKED, |c| c["config_groups"] = json!([])), &["config_groups", "an object"]);
    let whole = Copy::of("llama").set("quantization_config", json!(7)).refusal();
    says(&whole, &["config.json", "quantization_config", "found 7", "an object"]);
}

#[test]
fn groups_that_do_not_fit() {
    // The scales are those of groups of 32.
    says(
        &settings(GPTQ, |c| c["group_size"] = json!(16)),
        &["up_proj.qzeros", "found shape [2, 2]", "expected [4, 2]"],
    );
    says(&settings(GPTQ, |c| c["bits"] = json!(8)), &["up_proj.qweight", "found shape [8, 16]", "expected [16, 16]"]);
    let odd = Kind::Gptq { bits: 4, size: Some(12), symmetric: false, ordered: false, second: false };
    says(&settings(odd, |_| ()), &[NAME, "groups of 12 columns", "a multiple of 8"]);
    let blocks = settings(Kind::Fp8Blocks, |c| c["weight_block_size"] = json!([16, 20]));
    says(&blocks, &["weight_scale_inv", "found shape [1, 1]", "expected [1, 4]"]);
    let asymmetric = Kind::Gptq { bits: 8, size: Some(32), symmetric: false, ordered: false, second: false };
    says(&settings(asymmetric, |_| ()), &[NAME, "8 bits with zero points", "4 bits"]);
}

#[test]
fn parts_that_are_missing_or_wrong() {
    let parts = |kind: Kind| written(kind).into_keys().filter(|name| !name.ends_with(".bias")).collect::<Vec<_>>();
    for kind in KINDS.into_iter().chain(NF4) {
        let idle = ["g_idx", "activation_scale", "input_scale", "weight_shape"];
        let needed = |name: &String| !idle.iter().any(|end| name.ends_with(end));
        for part in parts(kind).into_iter().filter(needed) {
            let mut tensors = written(kind);
            tensors.remove(&part);
            let message = read(&kind.config(), &tensors).unwrap_err();
            let key =
                ["qweight", "weight_packed", "weight_blocks", "proj.weight"].iter().any(|key| part.ends_with(key));
            if !key {
                says(&message, &["model.safetensors", &part, "missing"]);
            }
        }
        // Every part, idle ones too, as another type; and cut by one along its last axis.
        for part in parts(kind) {
            let mut tensors = written(kind);
            let tensor = tensors.get_mut(&part).unwrap();
            let other = if tensor.2.len().is_multiple_of(8) { Dtype::F64 } else { Dtype::I16 };
            let size = if other == Dtype::F64 { 8 } else { 2 };
            tensor.2.resize(tensor.2.len().next_multiple_of(size), 0);
            (tensor.0, tensor.1) = (other, vec![tensor.2.len() / size]);
            if !["activation_scale", "input_scale"].iter().any(|idle| part.ends_with(idle)) {
                let message = read(&kind.config(), &tensors).unwrap_err();
                says(&message, &["model.safetensors", &part, "found"]);
            }
        }
    }
}

#[test]
fn values_that_no_code_can_have() {
    let nan16 = 0x7e00u16.to_le_bytes();
    let scale = changed(GPTQ, "scales", |t| t.2[6..8].copy_from_slice(&nan16));
    says(&scale, &["model.safetensors", "up_proj.scales", "NaN", "element 3", "[2, 16]", "finite"]);
    let infinite = changed(AWQ, "scales", |t| t.2[2..4].copy_from_slice(&0x7c00u16.to_le_bytes()));
    says(&infinite, &["up_proj.scales", "inf", "element 1"]);
    let code = changed(Kind::Fp8Blocks, "weight", |t| t.2[65] = 0x7f);
    says(&code, &["model.safetensors", NAME, "0x7f", "row 1, column 1", "fp8"]);
    let code = changed(Kind::Float { channel: true }, "weight", |t| t.2[64 * 15] = 0xff);
    says(&code, &[NAME, "0xff", "row 15, column 0"]);
    let scale = changed(Kind::Fp8Blocks, "weight_scale_inv", |t| t.2.copy_from_slice(&f32::NAN.to_le_bytes()));
    says(&scale, &["weight_scale_inv", "NaN", "element 0"]);
    let scale = changed(Kind::Mxfp4, "weight_scales", |t| t.2[5] = 255);
    says(&scale, &["up_proj.weight_scales", "255", "element 5", "0 to 254"]);
    let group = changed(GPTQ, "g_idx", |t| t.2[8..12].copy_from_slice(&2i32.to_le_bytes()));
    says(&group, &["up_proj.g_idx", "found 2 at element 2", "one of 2 groups"]);
    let group = changed(GPTQ, "g_idx", |t| t.2[8..12].copy_from_slice(&(-1i32).to_le_bytes()));
    says(&group, &["up_proj.g_idx", "found -1 at element 2"]);
    let group = changed(GPTQ, "g_idx", |t| t.2.fill(0));
    says(&group, &["up_proj.g_idx", "64 columns in group 0", "32 columns"]);
    let shape = changed(PACKED, "weight_shape", |t| t.2[8] = 63);
    says(&shape, &["weight_shape", "found 63 at element 1", "64"]);
}

#[test]
fn states_of_bitsandbytes() {
    let state = "weight.quant_state.bitsandbytes__nf4";
    let with = |change: &dyn Fn(&mut Value)| {
        changed(NESTED, state, |t| {
            let mut value: Value = serde_json::from_slice(&t.2).unwrap();
            change(&mut value);
            t.2 = value.to_string().into_bytes();
            t.1 = vec![t.2.len()];
        })
    };
    says(&with(&|v| v["shape"] = json!([64, 16])), &[state, "shape [64, 16]", "[16, 64]"]);
    says(&with(&|v| v["shape"] = json!("x")), &[state, "\"x\" as shape", "[16, 64]"]);
    says(&with(&|v| v["blocksize"] = json!(0)), &[state, "0 as blocksize", "a number of values"]);
    says(&with(&|v| v["nested_offset"] = json!(null)), &[state, "nested_offset", "U8"]);
    says(&with(&|v| v["nested_blocksize"] = json!(-1)), &[state, "nested_blocksize"]);
    says(&with(&|v| *v = json!([])), &[state, "a JSON object"]);
    says(&changed(NESTED, state, |t| t.2.fill(b'{')), &[state, "a JSON object"]);
    let map = changed(NESTED, "weight.quant_map", |t| t.2[4..8].copy_from_slice(&(-0.7f32).to_le_bytes()));
    says(&map, &["weight.quant_map", "-0.7 at element 1", "-0.696"]);
    let outer = changed(NESTED, "weight.nested_absmax", |t| t.2.copy_from_slice(&f32::INFINITY.to_le_bytes()));
    says(&outer, &["nested_absmax", "inf"]);
}

/// Models whose family takes a weight apart, or has tensors that it does not expect.
#[test]
fn models_that_cannot_be_imported() {
    let table = "model.embed_tokens.weight";
    let folder = Copy::of("llama").set("quantization_config", GPTQ.config()).tensors(|tensors| {
        let (rows, columns) = (tensors[table].1[0], tensors[table].1[1]);
        tensors.remove(table);
        let mut random = Random::new(3);
        let weight = Matrix::random(rows, columns, &mut random);
        GPTQ.write(table, &weight, &shuffled(columns, &mut random), tensors);
    });
    says(&folder.refusal(), &[table, "columns in activation order", "their own order"]);
    let [quantized, _] = super::models::pair("llama", GPTQ);
    let bias = "model.layers.0.self_attn.q_proj.bias";
    let folder = quantized.tensors(|tensors| {
        let rows = tensors["model.layers.0.self_attn.q_proj.scales"].1[1];
        tensors.insert(bias.to_owned(), (Dtype::F16, vec![rows], [0, 0x3c].repeat(rows)));
    });
    says(&folder.refusal(), &["1 of the file's tensors would be unused", bias]);
    // Without the settings, the tensors are those of no model.
    let [quantized, _] = super::models::pair("llama", GPTQ);
    let message = quantized.set("quantization_config", json!(null)).refusal();
    says(&message, &["q_proj.weight is missing", "q_proj.qweight is there", "quantization_config in config.json"]);
    let [quantized, _] = super::models::pair("llama", Kind::Fp8Blocks);
    let message = quantized.set("quantization_config", json!(null)).refusal();
    says(&message, &["q_proj.weight", "found type F8_E4M3", "F32, F16 or BF16"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes and any shapes of parts give values or an error.
    #[test]
    fn damaged_parts_never_panic(
        kind in 0..KINDS.len() + NF4.len(),
        part in 0usize..6,
        at in any::<usize>(),
        byte in any::<u8>(),
        cut in 0usize..3,
    ) {
        let kind = KINDS.into_iter().chain(NF4).nth(kind).unwrap();
        let mut tensors = written(kind);
        let names: Vec<String> = tensors.keys().cloned().collect();
        let tensor = tensors.get_mut(&names[part % names.len()]).unwrap();
        if cut > 0 && !tensor.1.is_empty() {
            let rest: usize = tensor.1[1..].iter().product();
            let size = tensor.2.len() / tensor.1[0].max(1) / rest.max(1);
            tensor.1[0] = tensor.1[0].saturating_sub(cut);
            tensor.2.truncate(tensor.1[0] * rest * size);
        } else if !tensor.2.is_empty() {
            let at = at % tensor.2.len();
            tensor.2[at] = byte;
        }
        match read(&kind.config(), &tensors) {
            Ok(values) => prop_assert!(values.iter().all(|v| v.is_finite())),
            Err(message) => prop_assert!(message.contains("model.safetensors"), "{message}"),
        }
    }
}
