//! A decoder written by hand: two caches of different widths, sums over them in which every row's place counts, a head.

use warpweft_plan::*;

use super::{groups, kernel, step, tier};

pub(crate) const VOCAB: usize = 13;
pub(crate) const POSITIONS: u32 = 200;
pub(crate) const CANDIDATES: usize = 4;
pub(crate) const EOS: u32 = 12;
/// Bytes of a row in both caches.
pub(crate) const ROW_BYTES: u64 = 32 + 64;

const APPEND: &str = "
@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<uniform> step: vec4<u32>;
@group(0) @binding(6) var<storage, read_write> cache: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x / WIDTHu;
  let column = id.x % WIDTHu;
  if (row < step.x) {
    let position = rows[row].x;
    let page = pages[sequences[rows[row].w].w + position / 32u];
    let value = table[ids[row] * 8u + column % 8u] + f32(column / 8u);
    cache[(page * 32u + position % 32u) * WIDTHu + column] = value;
  }
}
";

const ATTEND: &str = "
@group(0) @binding(0) var<storage, read> narrow: array<f32>;
@group(0) @binding(1) var<storage, read> wide: array<f32>;
@group(0) @binding(2) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<uniform> step: vec4<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x / 8u;
  let column = id.x % 8u;
  if (row < step.x) {
    let last = rows[row].x;
    let sequence = sequences[rows[row].w];
    var sum = 0.0;
    if (last == sequence.z + row - sequence.x) {
      for (var j = 0u; j <= last; j++) {
        let at = pages[sequence.w + j / 32u] * 32u + j % 32u;
        sum += (narrow[at * 8u + column] + wide[at * 16u + 15u - column]) * f32(1u + (j * 7u + column) % 5u) / f32(1u + last - j);
      }
    }
    y[id.x] = sum / 8.0;
  }
}
";

const LAST: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> sequences: array<vec4<u32>>;
@group(0) @binding(2) var<uniform> step: vec4<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let index = id.x / 8u;
  if (index < step.y) {
    y[id.x] = x[(sequences[index].x + sequences[index].y - 1u) * 8u + id.x % 8u];
  }
}
";

const HEAD: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<uniform> step: vec4<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x / 16u;
  let v = id.x % 16u;
  if (row < step.ROWS) {
    let a = x[row * 8u + v % 8u];
    let b = x[row * 8u + (v * 3u + 1u) % 8u];
    let wave = a * f32(1u + v) - b * f32(2u + v);
    y[id.x] = 4.0 * (wave - floor(wave));
  }
}
";

const BEST: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<uniform> step: vec4<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < step.y) {
    var sum = 0.0;
    for (var v = 0u; v < 13u; v++) {
      sum += exp(x[id.x * 16u + v]);
    }
    y[id.x * 16u] = log(sum);
    var before = 1e30;
    var taken = 0u;
    for (var n = 0u; n < 4u; n++) {
      var best = -1e30;
      var at = 0u;
      for (var v = 0u; v < 13u; v++) {
        let score = x[id.x * 16u + v];
        if (score > best && (taken & (1u << v)) == 0u) {
          best = score;
          at = v;
        }
      }
      taken |= 1u << at;
      y[id.x * 16u + 1u + n] = best;
      y[id.x * 16u + 5u + n] = f32(at);
    }
  }
}
";

/// Logits, next and candidates, in two ranges of rows.
pub(crate) fn plan() -> Plan {
    let buffer = |name: &str, role, bytes| Buffer { name: name.into(), role, bytes };
    let cache = |columns| Role::Cache { window: None, rows: CacheRows { format: CacheFormat::F32, heads: 1, columns } };
    let input = |input: Input| buffer("input", Role::Input(input), input.bytes());
    let buffers = vec![
        buffer("table", Role::Weight { tensor: 0, offset: 0 }, Dim::constant((VOCAB * 32) as i64)),
        input(Input::Ids),
        input(Input::Rows),
        input(Input::Sequences),
        input(Input::Pages),
        input(Input::Step),
        buffer("narrow", cache(8), Dim::CONTEXT * 32),
        buffer("wide", cache(16), Dim::CONTEXT * 64),
        buffer("sums", Role::Scratch, Dim::TOKENS * 32),
        buffer("last", Role::Scratch, Dim::SEQUENCES * 32),
        buffer("scores", Role::Scratch, Dim::SEQUENCES * 64),
        buffer("logits", Role::Output, Dim::TOKENS * 64),
        buffer("next", Role::Output, Dim::SEQUENCES * 64),
        buffer("candidates", Role::Output, Dim::SEQUENCES * 64),
    ];
    use Access::{Read, ReadWrite, Uniform};
    let append = [
        ("table", Read),
        ("ids", Read),
        ("rows", Read),
        ("sequences", Read),
        ("pages", Read),
        ("step", Uniform),
        ("cache", ReadWrite),
    ];
    let attend = [
        ("narrow", Read),
        ("wide", Read),
        ("rows", Read),
        ("sequences", Read),
        ("pages", Read),
        ("step", Uniform),
        ("y", ReadWrite),
    ];
    let last = [("x", Read), ("sequences", Read), ("step", Uniform), ("y", ReadWrite)];
    let head = [("x", Read), ("step", Uniform), ("y", ReadWrite)];
    let kernels = vec![
        kernel("append 8", &APPEND.replace("WIDTH", "8"), [64, 1, 1], &append),
        kernel("append 16", &APPEND.replace("WIDTH", "16"), [64, 1, 1], &append),
        kernel("attend", ATTEND, [64, 1, 1], &attend),
        kernel("last", LAST, [64, 1, 1], &last),
        kernel("head of rows", &HEAD.replace("ROWS", "x"), [64, 1, 1], &head),
        kernel("head of sequences", &HEAD.replace("ROWS", "y"), [64, 1, 1], &head),
        kernel("best", BEST, [8, 1, 1], &head),
    ];
    let grid = |dim, per| [groups(dim, per), Groups::ONE, Groups::ONE];
    let body = || {
        vec![
            step(0, &[0, 1, 2, 3, 4, 5, 6], grid(Dim::TOKENS * 8, 64)),
            step(1, &[0, 1, 2, 3, 4, 5, 7], grid(Dim::TOKENS * 16, 64)),
            step(2, &[6, 7, 2, 3, 4, 5, 8], grid(Dim::TOKENS * 8, 64)),
        ]
    };
    let last = || step(3, &[8, 3, 5, 9], grid(Dim::SEQUENCES * 8, 64));
    let by_sequence = |output| step(5, &[9, 5, output], grid(Dim::SEQUENCES * 16, 64));
    let mut programs = Vec::new();
    for (min_rows, max_rows) in [(1, Some(1)), (2, None)] {
        let mut program = |kind, buffer, rows, width, tail: Vec<Step>| {
            let output = Output { kind, buffer, rows, width, stride: 16 };
            let steps = body().into_iter().chain(tail).collect();
            programs.push(Program {
                target: "webgpu".into(),
                tier: tier(None),
                min_rows,
                max_rows,
                output,
                taps: Vec::new(),
                steps,
                tunings: Vec::new(),
            });
        };
        let logits = vec![step(4, &[8, 5, 11], grid(Dim::TOKENS * 16, 64))];
        program(OutputKind::Logits, 11, Dim::TOKENS, VOCAB as u32, logits);
        program(OutputKind::Next, 12, Dim::SEQUENCES, VOCAB as u32, vec![last(), by_sequence(12)]);
        let best = step(6, &[10, 5, 13], grid(Dim::SEQUENCES, 8));
        let width = 1 + 2 * CANDIDATES as u32;
        program(OutputKind::Candidates, 13, Dim::SEQUENCES, width, vec![last(), by_sequence(10), best]);
    }
    Plan {
        model: Model {
            name: "tiny decoder".into(),
            family: "llama".into(),
            layers: 1,
            vocab_size: VOCAB as u32,
            max_positions: POSITIONS,
            max_text_tokens: POSITIONS,
            eos_ids: vec![EOS],
        },
        tensors: vec![Tensor { name: "table".into(), dtype: DType::F32, shape: vec![VOCAB as u64, 8], format: None }],
        buffers,
        kernels,
        programs,
        provenance: None,
        quantization: None,
    }
}

fn table(id: usize, column: usize) -> f32 {
    ((id * 29 + column * 17) % 31) as f32 / 16.0 - 1.0
}

/// The plan file.
pub(crate) fn open(plan: &Plan, assets: &Assets) -> PlanFile {
    let mut writer = PlanWriter::new(Vec::new(), plan, assets).unwrap();
    writer.tensor(0).unwrap();
    for i in 0..VOCAB * 8 {
        writer.write(&table(i / 8, i % 8).to_le_bytes()).unwrap();
    }
    PlanFile::from_bytes(writer.into_inner().unwrap()).unwrap()
}

/// The scores after the last of `ids`.
pub(crate) fn next(ids: &[u32]) -> Vec<f32> {
    let last = ids.len() - 1;
    let x: Vec<f32> = (0..8)
        .map(|c| {
            let row = |(j, &id): (usize, &u32)| {
                let narrow = table(id as usize, c);
                let wide = table(id as usize, (15 - c) % 8) + 1.0;
                (narrow + wide) * (1 + (j * 7 + c) % 5) as f32 / (1 + last - j) as f32
            };
            ids.iter().enumerate().map(row).sum::<f32>() / 8.0
        })
        .collect();
    let wave = |v: usize| x[v % 8] * (1 + v) as f32 - x[(v * 3 + 1) % 8] * (2 + v) as f32;
    (0..VOCAB).map(|v| 4.0 * (wave(v) - wave(v).floor())).collect()
}

/// The scores after each of `ids`.
pub(crate) fn logits(ids: &[u32]) -> Vec<Vec<f32>> {
    (1..=ids.len()).map(|n| next(&ids[..n])).collect()
}

/// The id of the greatest score.
pub(crate) fn best(scores: &[f32]) -> u32 {
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a))).unwrap() as u32
}

/// The most likely ids after `ids`.
pub(crate) fn greedy(ids: &[u32], count: usize) -> Vec<u32> {
    let mut all = ids.to_vec();
    (0..count).for_each(|_| all.push(best(&next(&all))));
    all.split_off(ids.len())
}
