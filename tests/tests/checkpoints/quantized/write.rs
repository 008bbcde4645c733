//! Weights in the layouts in which quantized checkpoints are published, written from the layouts' definitions: a value at
//! a time, by other ways than those that read them. Values are rounded to the nearest code.

use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use warpweft_tests::{Random, Tensors};

/// A way to quantize a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `size` columns share a scale, all without it.
    Gptq {
        bits: u32,
        size: Option<usize>,
        symmetric: bool,
        ordered: bool,
        second: bool,
    },
    Awq {
        size: Option<usize>,
    },
    /// A scale for each block of 128 × 128.
    Fp8Blocks,
    /// One scale, called `weight_scale_inv`.
    Fp8Tensor,
    /// compressed-tensors: one scale, or one a row.
    Float {
        channel: bool,
    },
    /// compressed-tensors: bytes, one scale a row.
    Bytes,
    /// compressed-tensors: codes in words.
    Packed {
        bits: u32,
        size: Option<usize>,
        symmetric: bool,
        ordered: bool,
    },
    Mxfp4,
    Nf4 {
        nested: bool,
    },
}

/// A matrix.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) data: Vec<f32>,
}

impl Matrix {
    pub(crate) fn random(rows: usize, columns: usize, random: &mut Random) -> Matrix {
        Matrix { rows, columns, data: (0..rows * columns).map(|_| random.between(-0.3, 0.2)).collect() }
    }

    fn at(&self, row: usize, column: usize) -> f32 {
        self.data[row * self.columns + column]
    }
}

impl Kind {
    /// The `quantization_config`.
    pub(crate) fn config(self) -> Value {
        let size = |size: Option<usize>| size.map_or(json!(-1), |n| json!(n));
        match self {
            Kind::Gptq { bits, size: n, symmetric, ordered, second } => json!({
                "quant_method": "gptq", "bits": bits, "group_size": size(n), "sym": symmetric, "desc_act": ordered,
                "checkpoint_format": if second { "gptq_v2" } else { "gptq" }, "lm_head": false, "damp_percent": 0.01
            }),
            Kind::Awq { size: n } => {
                json!({"quant_method": "awq", "bits": 4, "group_size": size(n), "version": "gemm", "zero_point": true})
            }
            Kind::Fp8Blocks => json!({
                "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]
            }),
            Kind::Fp8Tensor => json!({"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": null}),
            Kind::Float { channel } => compressed(
                "float-quantized",
                &json!({"num_bits": 8, "type": "float", "strategy": if channel { "channel" } else { "tensor" },
                        "symmetric": true, "dynamic": false}),
            ),
            Kind::Bytes => compressed(
                "int-quantized",
                &json!({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true}),
            ),
            Kind::Packed { bits, size, symmetric, ordered } => compressed(
                "pack-quantized",
                &json!({"num_bits": bits, "type": "int", "strategy": if size.is_some() { "group" } else { "channel" },
                        "group_size": size, "symmetric": symmetric, "actorder": if ordered { json!("group") } else { json!(null) }}),
            ),
            Kind::Mxfp4 => json!({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}),
            Kind::Nf4 { nested } => json!({
                "quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false, "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": nested, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8",
                "llm_int8_skip_modules": null, "llm_int8_threshold": 6.0
            }),
        }
    }

    /// Puts the weight `name` in its place, and gives the values that it stands for. `order` is that of the columns.
    pub(crate) fn write(self, name: &str, weight: &Matrix, order: &[usize], into: &mut Tensors) -> Vec<f32> {
        let stem = name.strip_suffix("weight").unwrap();
        let mut put = |part: &str, dtype, shape: &[usize], bytes: Vec<u8>| {
            into.insert(format!("{stem}{part}"), (dtype, shape.to_vec(), bytes));
        };
        let &Matrix { rows, columns, .. } = weight;
        match self {
            Kind::Gptq { bits, size, symmetric, ordered, second } => {
                let (per, size) = (32 / bits as usize, size.unwrap_or(columns));
                let group_of = groups(columns, size, ordered.then_some(order));
                let found = Integers::of(weight, bits, &group_of, symmetric, f16_round);
                let groups = columns.div_ceil(size);
                let mut words = vec![0u32; columns / per * rows];
                let mut zeros = vec![0u32; groups * (rows / per)];
                let mut scales = Vec::new();
                for (row, column) in pairs(rows, columns) {
                    let code = found.codes[row * columns + column];
                    words[column / per * rows + row] |= code << (bits as usize * (column % per));
                }
                for (group, row) in pairs(groups, rows) {
                    let zero = found.zeros[row * groups + group];
                    let stored = if second { zero } else { zero.wrapping_sub(1) & ((1 << bits) - 1) };
                    zeros[group * (rows / per) + row / per] |= stored << (bits as usize * (row % per));
                    scales.extend(f16::from_f32(found.scales[row * groups + group]).to_le_bytes());
                }
                put("qweight", Dtype::I32, &[columns / per, rows], u32s(&words));
                put("qzeros", Dtype::I32, &[groups, rows / per], u32s(&zeros));
                put("scales", Dtype::F16, &[groups, rows], scales);
                put("g_idx", Dtype::I32, &[columns], u32s(&group_of.iter().map(|&g| g as u32).collect::<Vec<_>>()));
                // As early versions of the tool wrote it.
                put("bias", Dtype::F16, &[rows], vec![0; 2 * rows]);
                found.values(&group_of)
            }
            Kind::Awq { size } => {
                let size = size.unwrap_or(columns);
                let group_of = groups(columns, size, None);
                let found = Integers::of(weight, 4, &group_of, false, f16_round);
                let (groups, line) = (columns.div_ceil(size), rows / 8);
                let mut words = vec![0u32; columns * line];
                let mut zeros = vec![0u32; groups * line];
                let mut scales = Vec::new();
                for (eight, (i, output)) in pairs(line, 8).map(|(eight, i)| (eight, (i, [0, 2, 4, 6, 1, 3, 5, 7][i]))) {
                    let row = eight * 8 + output;
                    for column in 0..columns {
                        words[column * line + eight] |= found.codes[row * columns + column] << (4 * i);
                    }
                    for group in 0..groups {
                        zeros[group * line + eight] |= found.zeros[row * groups + group] << (4 * i);
                    }
                }
                for (group, row) in pairs(groups, rows) {
                    scales.extend(f16::from_f32(found.scales[row * groups + group]).to_le_bytes());
                }
                put("qweight", Dtype::I32, &[columns, line], u32s(&words));
                put("qzeros", Dtype::I32, &[groups, line], u32s(&zeros));
                put("scales", Dtype::F16, &[groups, rows], scales);
                found.values(&group_of)
            }
            Kind::Fp8Blocks => {
                let across = columns.div_ceil(128);
                let block = |row: usize, column: usize| row / 128 * across + column / 128;
                let (codes, scales, values) = fp8(weight, rows.div_ceil(128) * across, block, |scale| scale);
                put("weight", Dtype::F8_E4M3, &[rows, columns], codes);
                put("weight_scale_inv", Dtype::F32, &[rows.div_ceil(128), across], f32s(&scales));
                values
            }
            Kind::Fp8Tensor => {
                let (codes, scales, values) = fp8(weight, 1, |_, _| 0, bf16_round);
                put("weight", Dtype::F8_E4M3, &[rows, columns], codes);
                put("weight_scale_inv", Dtype::BF16, &[], bf16::from_f32(scales[0]).to_le_bytes().to_vec());
                put("activation_scale", Dtype::BF16, &[], vec![0x80, 0x3f]);
                values
            }
            Kind::Float { channel } => {
                let of = |row: usize, _| if channel { row } else { 0 };
                let (codes, scales, values) = fp8(weight, if channel { rows } else { 1 }, of, bf16_round);
                let bytes = scales.iter().flat_map(|&s| bf16::from_f32(s).to_le_bytes()).collect();
                put("weight", Dtype::F8_E4M3, &[rows, columns], codes);
                let of_rows = [rows, 1];
                put("weight_scale", Dtype::BF16, if channel { &of_rows } else { &[1] }, bytes);
                put("input_scale", Dtype::F32, &[1], f32s(&[0.01]));
                values
            }
            Kind::Bytes => {
                let mut codes = Vec::new();
                let (mut scales, mut values) = (Vec::new(), Vec::new());
                for row in weight.data.chunks(columns) {
                    let scale = greatest(row) / 127.0;
                    for value in row {
                        let code = (value / scale).round().clamp(-128.0, 127.0);
                        codes.push(code as i8 as u8);
                        values.push(code * scale);
                    }
                    scales.push(scale);
                }
                put("weight", Dtype::I8, &[rows, columns], codes);
                put("weight_scale", Dtype::F32, &[rows, 1], f32s(&scales));
                values
            }
            Kind::Packed { bits, size, symmetric, ordered } => {
                let (per, size) = (32 / bits as usize, size.unwrap_or(columns));
                let group_of = groups(columns, size, ordered.then_some(order));
                let found = Integers::of(weight, bits, &group_of, symmetric, bf16_round);
                let (groups, line) = (columns.div_ceil(size), columns.div_ceil(per));
                let mut words = vec![0u32; rows * line];
                for (row, column) in pairs(rows, columns) {
                    let code = found.codes[row * columns + column];
                    words[row * line + column / per] |= code << (bits as usize * (column % per));
                }
                let mut zeros = vec![0u32; rows.div_ceil(per) * groups];
                for (row, group) in pairs(rows, groups) {
                    let zero = found.zeros[row * groups + group];
                    zeros[row / per * groups + group] |= zero << (bits as usize * (row % per));
                }
                let scales = found.scales.iter().flat_map(|&s| bf16::from_f32(s).to_le_bytes()).collect();
                put("weight_packed", Dtype::I32, &[rows, line], u32s(&words));
                put("weight_scale", Dtype::BF16, &[rows, groups], scales);
                let shape = [rows as i64, columns as i64].iter().flat_map(|n| n.to_le_bytes()).collect();
                put("weight_shape", Dtype::I64, &[2], shape);
                if !symmetric {
                    put("weight_zero_point", Dtype::I32, &[rows.div_ceil(per), groups], u32s(&zeros));
                }
                if ordered {
                    let index: Vec<u32> = group_of.iter().map(|&g| g as u32).collect();
                    put("weight_g_idx", Dtype::I32, &[columns], u32s(&index));
                }
                found.values(&group_of)
            }
            Kind::Mxfp4 => {
                let (mut blocks, mut scales, mut values) = (Vec::new(), Vec::new(), Vec::new());
                for block in weight.data.chunks(32) {
                    let exponent = greatest(block).log2().floor() as i32 - 2;
                    let codes: Vec<u8> = block.iter().map(|v| nearest(&E2M1, v / 2f32.powi(exponent))).collect();
                    values.extend(codes.iter().map(|&code| E2M1[code as usize] * 2f32.powi(exponent)));
                    blocks.extend(codes.chunks(2).map(|two| two[0] | two[1] << 4));
                    scales.push((exponent + 127) as u8);
                }
                put("weight_blocks", Dtype::U8, &[rows, columns / 32, 16], blocks);
                put("weight_scales", Dtype::U8, &[rows, columns / 32], scales);
                values
            }
            Kind::Nf4 { nested } => {
                let absmax: Vec<f32> = weight.data.chunks(64).map(greatest).collect();
                let mut scales = absmax.clone();
                if nested {
                    let mean = absmax.iter().sum::<f32>() / absmax.len() as f32;
                    let map: Vec<f32> = (0..256).map(|i| (i as f32 - 127.0) / 128.0).collect();
                    let (mut codes, mut outer) = (Vec::new(), Vec::new());
                    scales.clear();
                    for block in absmax.chunks(256) {
                        let most = block.iter().fold(0.0, |most, a| f32::max(most, (a - mean).abs()));
                        for a in block {
                            let code = nearest(&map, (a - mean) / most);
                            scales.push(map[usize::from(code)] * most + mean);
                            codes.push(code);
                        }
                        outer.push(most);
                    }
                    put("weight.absmax", Dtype::U8, &[codes.len()], codes);
                    put("weight.nested_absmax", Dtype::F32, &[outer.len()], f32s(&outer));
                    put("weight.nested_quant_map", Dtype::F32, &[256], f32s(&map));
                    let state = state(weight, Some(mean));
                    put(STATE, Dtype::U8, &[state.len()], state);
                } else {
                    put("weight.absmax", Dtype::F32, &[absmax.len()], f32s(&absmax));
                    let state = state(weight, None);
                    put(STATE, Dtype::U8, &[state.len()], state);
                }
                let code = |(i, v): (usize, &f32)| nearest(&NF4, v / scales[i / 64]);
                let codes: Vec<u8> = weight.data.iter().enumerate().map(code).collect();
                let bytes: Vec<u8> = codes.chunks(2).map(|two| two[0] << 4 | two.get(1).unwrap_or(&0)).collect();
                put("weight", Dtype::U8, &[bytes.len(), 1], bytes);
                put("weight.quant_map", Dtype::F32, &[16], f32s(&NF4));
                codes.iter().enumerate().map(|(i, &code)| NF4[code as usize] * scales[i / 64]).collect()
            }
        }
    }
}

const STATE: &str = "weight.quant_state.bitsandbytes__nf4";

fn state(weight: &Matrix, offset: Option<f32>) -> Vec<u8> {
    let mut state = json!({
        "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [weight.rows, weight.columns]
    });
    if let Some(offset) = offset {
        state["nested_blocksize"] = json!(256);
        state["nested_dtype"] = json!("float32");
        state["nested_offset"] = json!(offset);
    }
    state.to_string().into_bytes()
}

fn compressed(format: &str, weights: &Value) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"], "quantization_status": "compressed",
        "kv_cache_scheme": null, "global_compression_ratio": 1.5,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "output_activations": null,
                                      "input_activations": {"num_bits": 8, "dynamic": true, "strategy": "token"}}}
    })
}

/// Codes from 0, with a scale and a zero point for each group of each row.
struct Integers {
    columns: usize,
    codes: Vec<u32>,
    scales: Vec<f32>,
    zeros: Vec<u32>,
}

impl Integers {
    fn of(weight: &Matrix, bits: u32, group_of: &[usize], symmetric: bool, round: fn(f32) -> f32) -> Integers {
        let (groups, top) = (1 + group_of.iter().max().unwrap(), ((1u32 << bits) - 1) as f32);
        let columns = weight.columns;
        let mut found = Integers { columns, codes: Vec::new(), scales: Vec::new(), zeros: Vec::new() };
        for row in 0..weight.rows {
            for group in 0..groups {
                let of_group = (0..columns).filter(|&c| group_of[c] == group).map(|c| weight.at(row, c));
                let (low, high) = of_group.fold((0.0f32, 0.0f32), |(low, high), v| (low.min(v), high.max(v)));
                let (scale, zero) = match symmetric {
                    true => (round(2.0 * high.max(-low) / top), 1 << (bits - 1)),
                    false => (round((high - low) / top), 0),
                };
                found.scales.push(scale);
                found.zeros.push(if symmetric { zero } else { (-low / scale).round().clamp(0.0, top) as u32 });
            }
            for (column, group) in group_of.iter().enumerate() {
                let (scale, zero) = (found.scales[row * groups + group], found.zeros[row * groups + group]);
                found.codes.push(((weight.at(row, column) / scale).round() + zero as f32).clamp(0.0, top) as u32);
            }
        }
        found
    }

    fn values(&self, group_of: &[usize]) -> Vec<f32> {
        let groups = 1 + group_of.iter().max().unwrap();
        let value = |(i, &code): (usize, &u32)| {
            let at = i / self.columns * groups + group_of[i % self.columns];
            (code as f32 - self.zeros[at] as f32) * self.scales[at]
        };
        self.codes.iter().enumerate().map(value).collect()
    }
}

/// The group of each column; with an order, column `order[i]` is in the group of i.
fn groups(columns: usize, size: usize, order: Option<&[usize]>) -> Vec<usize> {
    let mut found: Vec<usize> = (0..columns).map(|c| c / size).collect();
    for (i, &column) in order.unwrap_or_default().iter().enumerate() {
        found[column] = i / size;
    }
    found
}

/// Codes, scales and values of a weight whose element (row, column) belongs to block `of(row, column)`.
fn fp8(
    weight: &Matrix,
    blocks: usize,
    of: impl Fn(usize, usize) -> usize,
    round: fn(f32) -> f32,
) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let mut scales = vec![0.0f32; blocks];
    for (row, column) in pairs(weight.rows, weight.columns) {
        let scale = &mut scales[of(row, column)];
        *scale = scale.max(weight.at(row, column).abs() / 448.0);
    }
    scales.iter_mut().for_each(|scale| *scale = round(*scale));
    let table: Vec<f32> = (0..=255).map(e4m3).collect();
    let scale = |row, column| scales[of(row, column)];
    let code = |(row, column)| nearest(&table, weight.at(row, column) / scale(row, column));
    let codes: Vec<u8> = pairs(weight.rows, weight.columns).map(code).collect();
    let all = pairs(weight.rows, weight.columns).zip(&codes);
    let values = all.map(|((row, column), &code)| table[usize::from(code)] * scale(row, column)).collect();
    (codes, scales, values)
}

/// 1 bit of sign, 4 of exponent, 3 of mantissa.
pub(crate) fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if code >= 128 { -size } else { size }
}

/// 1 bit of sign, 2 of exponent, 1 of mantissa.
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// As bitsandbytes has them.
#[allow(clippy::excessive_precision, reason = "digits as they are published")]
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// The index of the nearest number of a table.
fn nearest(table: &[f32], value: f32) -> u8 {
    let off = |i: &usize| (table[*i] - value).abs();
    (0..table.len()).filter(|&i| !table[i].is_nan()).min_by(|a, b| off(a).total_cmp(&off(b))).unwrap() as u8
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, v| f32::max(most, v.abs()))
}

fn pairs(a: usize, b: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..a).flat_map(move |i| (0..b).map(move |j| (i, j)))
}

fn f16_round(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn bf16_round(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

fn u32s(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
