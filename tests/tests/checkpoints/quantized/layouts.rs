//! Each layout, written by its definition and read: values equal bit for bit.

use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use warpweft_compiler::formats::{Format, Group};
use warpweft_models::Checkpoint;
use warpweft_models::config::Config;
use warpweft_models::quantized::Quantization;
use warpweft_tests::{Random, Tensors, fixture};

use super::write::{Kind, Matrix, e4m3};
use super::{KINDS, NF4, folder, quantization, shuffled, values};

const NAME: &str = "model.layers.0.self_attn.q_proj.weight";

fn check(kind: Kind, rows: usize, columns: usize) {
    let mut random = Random::new((rows * 1000 + columns) as u64);
    let weight = Matrix::random(rows, columns, &mut random);
    let mut tensors = Tensors::new();
    let expected = kind.write(NAME, &weight, &shuffled(columns, &mut random), &mut tensors);
    let folder = folder(&kind.config(), &tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let quantization = quantization(folder.path()).unwrap().unwrap();
    assert!(quantization.has(&checkpoint, NAME));
    let found = quantization.find(&checkpoint, NAME, &[rows as u64, columns as u64]).unwrap().unwrap();
    for part in found.parts() {
        assert!(tensors.remove(part).is_some(), "{kind:?}: {part} is there");
    }
    tensors.retain(|name, _| !name.ends_with(".bias"));
    assert!(tensors.is_empty(), "{kind:?}: {:?} are left over", tensors.keys());
    let bytes = found.read(&checkpoint).unwrap();
    assert_eq!(bytes.len(), rows * found.format().row_bytes(columns));
    let found = values(&checkpoint, &found).unwrap();
    let differ = |(found, expected): (&f32, &f32)| found.to_bits() != expected.to_bits() && found != expected;
    let wrong = found.iter().zip(&expected).position(differ);
    assert_eq!(wrong.map(|i| (i, found[i], expected[i])), None, "{kind:?} {rows} × {columns}");
}

#[test]
fn all_layouts_are_read_exactly() {
    for kind in KINDS {
        // More than one piece of rows, and less than a block of them.
        for (rows, columns) in [(8, 64), (72, 192), (200, 128)] {
            check(kind, rows, columns);
        }
    }
    for kind in NF4 {
        for (rows, columns) in [(8, 64), (72, 176), (5, 8), (33, 32), (16, 1088)] {
            check(kind, rows, columns);
        }
    }
    // More rows than are taken apart at once.
    check(KINDS[1], 1 << 10, 1 << 13);
}

#[test]
fn groups_and_blocks_at_the_ends_are_smaller() {
    for size in [32, 64, 128] {
        check(Kind::Gptq { bits: 4, size: Some(size), symmetric: false, ordered: true, second: false }, 16, 176);
        check(Kind::Awq { size: Some(size) }, 16, 176);
        check(Kind::Packed { bits: 4, size: Some(size), symmetric: false, ordered: true }, 13, 176);
        check(Kind::Packed { bits: 4, size: Some(size), symmetric: true, ordered: false }, 13, 171);
    }
    for (rows, columns) in [(576, 136), (1, 1), (129, 128), (128, 129), (300, 7)] {
        check(Kind::Fp8Blocks, rows, columns);
        check(Kind::Fp8Tensor, rows, columns);
        check(Kind::Float { channel: true }, rows, columns);
        check(Kind::Bytes, rows, columns);
    }
}

/// The words of one row of eight codes 0 to 7, as each method's definition has them.
#[test]
fn known_words() {
    let word = u32::to_le_bytes;
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    // GPTQ: input 0 in the lowest bits. Eight outputs, all of the same codes; zero points 8 are stored as 7.
    let tensors: Tensors = [
        ("qweight", Dtype::I32, vec![1, 8], [word(0x7654_3210); 8].concat()),
        ("qzeros", Dtype::I32, vec![1, 1], word(0x7777_7777).to_vec()),
        ("scales", Dtype::F16, vec![1, 8], [half(0.5); 8].concat()),
    ]
    .map(|(part, dtype, shape, bytes)| (NAME.replace("weight", part), (dtype, shape, bytes)))
    .into();
    let expected: Vec<f32> = (0..8).map(|code| (code as f32 - 8.0) * 0.5).collect();
    let gptq = Kind::Gptq { bits: 4, size: None, symmetric: true, ordered: false, second: false };
    assert_eq!(read(gptq, &tensors, [8, 8]), expected.repeat(8));
    // AWQ: the outputs of a word stand in the order 0, 2, 4, 6, 1, 3, 5, 7.
    let tensors: Tensors = [
        ("qweight", Dtype::I32, vec![8, 1], [word(0x7531_6420); 8].concat()),
        ("qzeros", Dtype::I32, vec![1, 1], word(0x8888_8888).to_vec()),
        ("scales", Dtype::F16, vec![1, 8], [half(0.5); 8].concat()),
    ]
    .map(|(part, dtype, shape, bytes)| (NAME.replace("weight", part), (dtype, shape, bytes)))
    .into();
    let expected: Vec<f32> = (0..64).map(|i| ((i / 8) as f32 - 8.0) * 0.5).collect();
    assert_eq!(read(Kind::Awq { size: None }, &tensors, [8, 8]), expected);
    // MXFP4: the lower bits first. Codes 0 to 15 twice, times 2^(130 - 127).
    let bytes: Vec<u8> = (0..8u8).map(|i| (2 * i) | (2 * i + 1) << 4).collect();
    let tensors: Tensors = [
        ("weight_blocks", Dtype::U8, vec![1, 1, 16], bytes.repeat(2)),
        ("weight_scales", Dtype::U8, vec![1, 1], vec![130]),
    ]
    .map(|(part, dtype, shape, bytes)| (NAME.replace("weight", part), (dtype, shape, bytes)))
    .into();
    let half_row = [0.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0];
    let row: Vec<f32> = half_row.into_iter().chain(half_row.map(|x: f32| -x)).collect();
    assert_eq!(read(Kind::Mxfp4, &tensors, [1, 32]), row.repeat(2));
}

fn read(kind: Kind, tensors: &Tensors, [rows, columns]: [u64; 2]) -> Vec<f32> {
    let folder = folder(&kind.config(), tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let found = quantization(folder.path()).unwrap().unwrap().find(&checkpoint, NAME, &[rows, columns]);
    values(&checkpoint, &found.unwrap().unwrap()).unwrap()
}

/// A zero point of 0 is stored as 15 in the first version of GPTQ's layout.
#[test]
fn zero_points_less_one_wrap() {
    let kind = Kind::Gptq { bits: 4, size: None, symmetric: false, ordered: false, second: false };
    let weight = Matrix { rows: 8, columns: 8, data: (0..64).map(|i| i as f32 / 8.0).collect() };
    let mut tensors = Tensors::new();
    let expected = kind.write(NAME, &weight, &[], &mut tensors);
    assert_eq!(tensors[&NAME.replace("weight", "qzeros")].2, vec![0xff; 4]);
    assert_eq!(read(kind, &tensors, [8, 8]), expected);
}

/// Scales that need all bits of f32 make codes of eight bits of those of four.
#[test]
fn scales_of_full_precision_are_kept() {
    let kind = Kind::Gptq { bits: 4, size: None, symmetric: false, ordered: false, second: false };
    let weight = Matrix::random(8, 8, &mut Random::new(1));
    let mut tensors = Tensors::new();
    kind.write(NAME, &weight, &[], &mut tensors);
    let scales = [0.1f32, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
    let bytes = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    tensors.insert(NAME.replace("weight", "scales"), (Dtype::F32, vec![1, 8], bytes));
    let folder = folder(&kind.config(), &tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let found = quantization(folder.path()).unwrap().unwrap().find(&checkpoint, NAME, &[8, 8]).unwrap().unwrap();
    assert_eq!(found.format(), Format::Int8(Group::Row));
    for (row, scale) in values(&checkpoint, &found).unwrap().chunks(8).zip(scales) {
        assert!(row.iter().all(|value| (value / scale - (value / scale).round()).abs() < 1e-5), "{row:?} {scale}");
    }
}

/// The tensors of the published layout of DeepSeek-V3: `w = fp8 · scale_inv[row / 128][column / 128]`.
#[test]
fn tensors_of_deepseek_v3() {
    let folder = fixture("deepseek_v3-fp8");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let quantization = quantization(&folder).unwrap().unwrap();
    let mut count = 0;
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name).unwrap();
        let &[rows, columns] = tensor.shape else { continue };
        let scales = checkpoint.tensor(&format!("{name}_scale_inv"));
        let found = quantization.find(&checkpoint, name, tensor.shape).unwrap();
        assert_eq!(found.is_some(), scales.is_some(), "{name}");
        let (Some(found), Some(scales)) = (found, scales) else { continue };
        let group = if columns > 128 { Group::Of(128) } else { Group::Row };
        assert_eq!(found.format(), Format::Fp8(group), "{name}");
        let across = columns.div_ceil(128);
        assert_eq!(scales.shape, [rows.div_ceil(128), across]);
        let scales: Vec<f32> = scales.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let expected =
            tensor.bytes.iter().zip(0..).map(|(&code, i): (_, u64)| {
                e4m3(code) * scales[(i / columns / 128 * across + i % columns / 128) as usize]
            });
        assert_eq!(values(&checkpoint, &found).unwrap(), expected.collect::<Vec<f32>>(), "{name}");
        count += 1;
    }
    assert_eq!(count, checkpoint.names().filter(|name| name.ends_with("_scale_inv")).count());
    assert!(count > 50);
}

/// How configurations were spelled before there was a common form.
#[test]
fn early_configurations() {
    let method = |config: Value| {
        let config = Config::parse("config.json".as_ref(), &config.to_string()).unwrap();
        Quantization::read(&config).unwrap().map(|quantization| quantization.name())
    };
    let without = |kind: Kind| {
        let mut config = kind.config();
        config.as_object_mut().unwrap().remove("quant_method");
        config
    };
    assert_eq!(method(json!({})), None);
    assert_eq!(method(json!({"quantization_config": null})), None);
    let compressed = json!({"compression_config": without(Kind::Bytes)});
    assert_eq!(method(compressed), Some("compressed-tensors"));
    assert_eq!(method(json!({"quantization_config": without(NF4[0])})), Some("bitsandbytes"));
    let awq = json!({"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "version": "GEMM", "zero_point": true});
    assert_eq!(method(json!({ "quantization_config": awq })), Some("awq"));
}
