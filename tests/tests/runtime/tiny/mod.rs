//! A plan written by hand: a gather that scales by position, and a mean over each sequence. Small enough to check by eye.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod decoder;

use warpweft_plan::*;

pub(crate) const VOCAB: usize = 11;
pub(crate) const WIDTH: usize = 5;
pub(crate) const STRIDE: usize = 8;
pub(crate) const POSITIONS: u32 = 70;

const GATHER: &str = "
@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> gain: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(4) var<uniform> step: vec4<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x / 8u;
  let column = id.x % 8u;
  if (row < step.x) {
    y[id.x] = table[ids[row] * 8u + column] * f32(1u + rows[row].x) + gain[column];
  }
}
";

const MEAN: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(8, 4)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.y < step.y) {
    let sequence = sequences[id.y];
    var sum = 0.0;
    for (var i = 0u; i < sequence.y; i++) {
      sum += x[(sequence.x + i) * 8u + id.x];
    }
    y[id.y * 8u + id.x] = sum / f32(sequence.y);
  }
}
";

fn kernel(name: &str, wgsl: &str, workgroup: [u32; 3], bindings: &[(&str, Access)]) -> Kernel {
    Kernel {
        name: name.into(),
        wgsl: wgsl.into(),
        workgroup,
        bindings: bindings.iter().map(|(name, access)| Binding { name: (*name).into(), access: *access }).collect(),
        loop_trips: u64::from(POSITIONS),
        cost: Default::default(),
        meaning: String::new(),
    }
}

fn groups(dim: Dim, per: u32) -> Groups {
    Groups { dim, per }
}

fn step(kernel: usize, buffers: &[usize], grid: [Groups; 3]) -> Step {
    Step {
        kernel,
        buffers: buffers.to_vec(),
        grid,
        layer: None,
        bytes: Dim::TOKENS * 64,
        flops: Dim::TOKENS * 16,
        live: Dim::TOKENS * 32,
    }
}

pub(crate) fn tier(subgroup_size: Option<u32>) -> Tier {
    Tier {
        subgroup_size,
        int64: false,
        images: 0,
        workgroup_bytes: 16_384,
        workgroup_invocations: 256,
        binding_bytes: 1 << 27,
        storage_buffers: 8,
    }
}

/// Embedding and hidden state, for the floor and for subgroups of 4, 8 and 32, in two ranges of rows.
pub(crate) fn plan() -> Plan {
    let buffer = |name: &str, role, bytes| Buffer { name: name.into(), role, bytes };
    let buffers = vec![
        buffer("table", Role::Weight { tensor: 0, offset: 0 }, Dim::constant((VOCAB * STRIDE * 4) as i64)),
        buffer("gain", Role::Weight { tensor: 1, offset: 32 }, Dim::constant(32)),
        buffer("ids", Role::Input(Input::Ids), Input::Ids.bytes()),
        buffer("rows", Role::Input(Input::Rows), Input::Rows.bytes()),
        buffer("step", Role::Input(Input::Step), Input::Step.bytes()),
        buffer("sequences", Role::Input(Input::Sequences), Input::Sequences.bytes()),
        buffer("gathered", Role::Scratch, Dim::TOKENS * 32),
        buffer("hidden", Role::Output, Dim::TOKENS * 32),
        buffer("embedding", Role::Output, Dim::SEQUENCES * 32),
    ];
    use Access::{Read, ReadWrite, Uniform};
    let gather = [("table", Read), ("gain", Read), ("ids", Read), ("rows", Read), ("step", Uniform), ("y", ReadWrite)];
    let mean = [("x", Read), ("sequences", Read), ("step", Uniform), ("y", ReadWrite)];
    let kernels = vec![kernel("gather", GATHER, [64, 1, 1], &gather), kernel("mean", MEAN, [8, 4, 1], &mean)];
    let by_row = [groups(Dim::TOKENS * 8, 64), Groups::ONE, Groups::ONE];
    let by_sequence = [Groups::ONE, groups(Dim::SEQUENCES, 4), Groups::ONE];
    let mut programs = Vec::new();
    for (target, size) in
        [("webgpu", None), ("subgroup-4", Some(4)), ("subgroup-8", Some(8)), ("subgroup-32", Some(32))]
    {
        for (min_rows, max_rows) in [(1, Some(4)), (5, None)] {
            let program = |output, steps| Program {
                target: target.into(),
                tier: tier(size),
                min_rows,
                max_rows,
                output,
                taps: Vec::new(),
                steps,
                tunings: Vec::new(),
            };
            let (width, stride) = (WIDTH as u32, STRIDE as u32);
            programs.push(program(
                Output { kind: OutputKind::Embedding, buffer: 8, rows: Dim::SEQUENCES, width, stride },
                vec![step(0, &[0, 1, 2, 3, 4, 6], by_row), step(1, &[6, 5, 4, 8], by_sequence)],
            ));
            programs.push(program(
                Output { kind: OutputKind::Hidden, buffer: 7, rows: Dim::TOKENS, width, stride },
                vec![step(0, &[0, 1, 2, 3, 4, 7], by_row)],
            ));
        }
    }
    let shape = |rows| vec![rows, STRIDE as u64];
    let tensor = |name: &str, rows| Tensor { name: name.into(), dtype: DType::F32, shape: shape(rows), format: None };
    Plan {
        model: Model {
            name: "tiny".into(),
            family: "bert".into(),
            layers: 1,
            vocab_size: VOCAB as u32,
            max_positions: POSITIONS,
            max_text_tokens: 6,
            eos_ids: Vec::new(),
        },
        tensors: vec![tensor("table", VOCAB as u64), tensor("gain", 2)],
        buffers,
        kernels,
        programs,
        provenance: None,
        quantization: None,
    }
}

fn table(id: usize, column: usize) -> f32 {
    (id * 10 + column) as f32 / 8.0
}

fn gain(column: usize) -> f32 {
    column as f32 - 2.0
}

fn weights() -> [Vec<f32>; 2] {
    let table = (0..VOCAB).flat_map(|id| (0..STRIDE).map(move |c| table(id, c))).collect();
    let gain = (0..2 * STRIDE).map(|i| if i < STRIDE { f32::NAN } else { gain(i - STRIDE) }).collect();
    [table, gain]
}

/// A tokenizer of ten words that pads and truncates on its own, which a runtime must not let it do.
pub(crate) const TOKENIZER: &str = r#"{
  "version": "1.0",
  "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
  "added_tokens": [],
  "normalizer": null,
  "pre_tokenizer": {"type": "Whitespace"},
  "post_processor": {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}
  },
  "decoder": null,
  "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "b": 5, "c": 6, "d": 7, "e": 8, "huge": 99}, "unk_token": "[UNK]"}
}"#;

/// The plan file's bytes.
pub(crate) fn file(plan: &Plan) -> Vec<u8> {
    let mut assets = Assets::default();
    assets.insert(Assets::TOKENIZER, TOKENIZER);
    let mut writer = PlanWriter::new(Vec::new(), plan, &assets).unwrap();
    for (i, values) in weights().iter().enumerate() {
        writer.tensor(i).unwrap();
        for value in values {
            writer.write(&value.to_le_bytes()).unwrap();
        }
    }
    writer.into_inner().unwrap()
}

pub(crate) fn open(plan: &Plan) -> PlanFile {
    PlanFile::from_bytes(file(plan)).unwrap()
}

/// Hidden rows of one sequence.
pub(crate) fn hidden(ids: &[u32]) -> Vec<Vec<f32>> {
    let row = |(position, &id): (usize, &u32)| {
        (0..WIDTH).map(|c| table(id as usize, c) * (1 + position) as f32 + gain(c)).collect()
    };
    ids.iter().enumerate().map(row).collect()
}

/// The vector of one sequence.
pub(crate) fn embedding(ids: &[u32]) -> Vec<f32> {
    let rows = hidden(ids);
    (0..WIDTH).map(|c| rows.iter().map(|row| row[c]).sum::<f32>() / rows.len() as f32).collect()
}

/// Sequences of the given lengths.
pub(crate) fn sequences(lengths: &[usize]) -> Vec<Vec<u32>> {
    let id = |s: usize, i: usize| ((s * 7 + i * 3) % VOCAB) as u32;
    lengths.iter().enumerate().map(|(s, &n)| (0..n).map(|i| id(s, i)).collect()).collect()
}
