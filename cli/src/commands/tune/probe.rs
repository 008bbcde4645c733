//! What is measured on an adapter: how fast it starts work, moves bytes, and runs alternatives of known operations.

use std::mem::discriminant;
use std::time::Instant;

use warpweft_compiler::formats::Format;
use warpweft_compiler::kernels::spec::{
    Attention, Binary, Norm, Operand, Operation, Prologue, RowNorm, Rows, Term, View,
};
use warpweft_compiler::kernels::{Choice, Composed, RowRange, Slot, candidates, compose};
use warpweft_compiler::target::{Dispatch, Rates, Target};
use warpweft_plan::{Access, Binding, Groups, Kernel, ROW_BLOCK, Sizes};
use warpweft_runtime::{Buffers, Device, RuntimeError, Trial, block_on};

use super::fit::Sample;
use crate::CliError;
use crate::interrupt;
use crate::progress::{Bar, Unit};

/// Bytes of the buffer whose copying is measured.
const COPIED: u64 = 128 << 20;
/// Seconds for what is measured by itself.
const ALONE: f64 = 0.5;
/// Columns of what contractions read.
const WIDTH: u32 = 1024;
/// Columns of their results: enough to keep a GPU busy, few enough that a CPU is not interrupted meanwhile.
const RESULT: [u32; 2] = [256, 4096];
/// Alternatives of an operation, at the most, and how much slower than the best they may be predicted to be.
const ALTERNATIVES: (usize, f64) = (5, 4.0);
/// The same for the first of each other algorithm: rates of what no close alternative does are measured too.
const OTHERS: f64 = 32.0;

/// Rounds over all that is measured together, at the least.
const ROUNDS: u32 = 2;
/// Steps of the progress that measuring all probes makes.
const PARTS: u64 = 10;

/// Of an invocation that does nothing.
const NOTHING: &str = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(SIZE)
fn main(@builtin(workgroup_id) group: vec3<u32>) {
    if (group.x == 0xffffffffu) {
        out[0] = 1u;
    }
}
";

/// Dispatch, launch and bandwidth; the rest is the target's.
pub(super) fn basics(device: &Device, target: &Target) -> Result<Rates, CliError> {
    let mut rates = target.rates.clone();
    if device.adapter.is_software() {
        rates.units = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        rates.lanes = rates.units * target.subgroup_size.unwrap_or(4);
    }
    let size = target.subgroup_size.unwrap_or(64);
    let kernel = Kernel {
        name: "nothing".into(),
        wgsl: NOTHING.replace("SIZE", &size.to_string()),
        workgroup: [size, 1, 1],
        bindings: vec![Binding { name: "out".into(), access: Access::ReadWrite }],
        loop_trips: 0,
        cost: Default::default(),
        meaning: String::new(),
    };
    const GROUPS: u32 = 32_768;
    let buffers = block_on(device.buffers(&kernel.bindings, &[vec![0; 16]]))?;
    let mut trials = [1, GROUPS].map(|groups| block_on(device.trial(&kernel, [groups, 1, 1], &buffers)));
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < ALONE {
        for trial in trials.iter_mut().flatten() {
            block_on(device.repeat(trial))?;
        }
    }
    let [one, many] = trials;
    let (one, many) = (one?.seconds(), many?.seconds());
    let places = f64::from(rates.lanes / size).max(rates.units.into());
    rates.dispatch = one.max(1e-9);
    rates.launch = ((many - one) * places / f64::from(GROUPS)).max(0.0);
    match block_on(device.copy_rate(COPIED)) {
        Ok(rate) => rates.bandwidth = rate,
        Err(RuntimeError::OutOfMemory { .. }) => {}
        Err(other) => return Err(other.into()),
    }
    Ok(rates)
}

/// An operation at a number of rows.
struct Probe {
    name: String,
    operation: Operation,
    rows: u32,
}

/// The same behind a norm with a gain.
fn normed(linear: Operation) -> Operation {
    let term = Term::Binary(Binary::Mul, Box::new(Term::Acc), Box::new(Term::Operand(0)));
    let norms = vec![RowNorm { norm: Norm::Rms, eps: 1e-6, term }];
    let prologue = Prologue { norms, operands: vec![Operand::Vector], carried: false };
    Operation::NormedLinear { prologue, linear: Box::new(linear) }
}

fn probes(software: bool) -> Vec<Probe> {
    let mut probes = Vec::new();
    let n = RESULT[usize::from(!software)];
    for rows in [128, 1, 16] {
        for format in [Format::F16, Format::F32, Format::Bf16] {
            let operation = Operation::Linear {
                x: View::whole(WIDTH),
                n,
                format,
                paired: false,
                term: Term::Acc,
                operands: Vec::new(),
                out: View::whole(n),
                rows: Rows::Tokens,
            };
            let name = format!("linear {} {WIDTH}x{n}, {rows} rows", format.name());
            if format == Format::Bf16 {
                let name = format!("rms-norm and {name}");
                probes.push(Probe { name, operation: normed(operation.clone()), rows });
            }
            probes.push(Probe { name, operation, rows });
        }
    }
    let scale = Term::Binary(Binary::Mul, Box::new(Term::Acc), Box::new(Term::Constant(0.125)));
    let (heads, view) = (8, View::whole(512));
    let operation = Operation::Attention(Attention {
        q: view,
        k: view,
        v: view,
        heads,
        kv_heads: heads,
        term: scale,
        max_context: 512,
        image: false,
    });
    probes.push(Probe { name: "attention 8x64, 128 rows".into(), operation, rows: 128 });
    let operation = Operation::Normalize {
        norm: Norm::Rms,
        eps: 1e-6,
        width: WIDTH,
        input: Term::Operand(0),
        term: Term::Acc,
        then: None,
        operands: vec![Operand::Matrix(View::whole(WIDTH))],
        rows: Rows::Tokens,
        image: false,
    };
    probes.push(Probe { name: "rms-norm 1024, 128 rows".into(), operation, rows: 128 });
    probes
}

/// A kernel that is measured, and what is known of it.
pub(super) struct Measured {
    sample: Sample,
    trial: Trial,
}

impl Measured {
    /// Makes a kernel ready to be measured over these buffers.
    pub(super) fn new(
        device: &Device,
        operation: &str,
        composed: &Composed,
        buffers: &Buffers,
        sizes: Sizes,
    ) -> Result<Measured, CliError> {
        let grid =
            grid(composed.grid, sizes).ok_or_else(|| CliError::Failed(format!("{} has no grid", composed.name)))?;
        let trial = block_on(device.trial(&composed.kernel(String::new()), grid, buffers))?;
        let sample = Sample {
            operation: operation.to_owned(),
            kernel: composed.name.clone(),
            seconds: trial.seconds(),
            cost: composed.cost,
            dispatch: Dispatch {
                invocations: composed.workgroup.iter().product(),
                groups: grid.iter().map(|&n| u64::from(n)).product(),
                bytes: composed.bytes.eval(sizes).unwrap_or(0),
            },
            sizes,
        };
        Ok(Measured { sample, trial })
    }

    /// What was found.
    pub(super) fn sample(&self) -> Sample {
        Sample { seconds: self.trial.seconds(), ..self.sample.clone() }
    }
}

/// Measures all of them again and again, one after the other, until `deadline`, and [`ROUNDS`] times at the least: what
/// else happens on a machine for a while then falls upon all of them.
pub(super) fn repeat(device: &Device, all: &mut [Measured], deadline: Instant) -> Result<(), CliError> {
    let mut rounds = 0;
    while rounds < ROUNDS || Instant::now() < deadline {
        for measured in all.iter_mut() {
            interrupt::check()?;
            block_on(device.repeat(&mut measured.trial))?;
        }
        rounds += 1;
    }
    Ok(())
}

/// Alternatives of known operations, until `deadline`.
pub(super) fn samples(
    device: &Device,
    target: &Target,
    deadline: Instant,
    bar: &mut Bar<'_>,
) -> Result<Vec<Sample>, CliError> {
    let mut all = Vec::new();
    let probes = probes(device.adapter.is_software());
    let total = probes.len() as u64 + PARTS;
    for (done, probe) in (0..).zip(probes) {
        let rows = RowRange { min: probe.rows, max: Some(probe.rows) };
        let choices = candidates(&probe.operation, target, rows).map_err(|e| CliError::Failed(e.to_string()))?;
        let sizes = Sizes { tokens: probe.rows.into(), context: probe.rows.into(), sequences: 1 };
        let mut buffers: Option<(Vec<Slot>, Buffers)> = None;
        for choice in shown(&choices) {
            interrupt::check()?;
            let Ok(composed) = compose(&probe.operation, choice, target) else { continue };
            if buffers.as_ref().is_none_or(|(slots, _)| *slots != composed.slots) {
                let contents = |slot: &Slot| contents(*slot, &probe.operation, sizes);
                let contents: Vec<_> = composed.slots.iter().map(contents).collect::<Result<_, _>>()?;
                buffers = Some((composed.slots.clone(), block_on(device.buffers(&composed.bindings, &contents))?));
            }
            if let Some((_, buffers)) = &buffers {
                all.push(Measured::new(device, &probe.name, &composed, buffers, sizes)?);
            }
        }
        bar.set(done + 1, total, Unit::Items);
    }
    let begun = Instant::now();
    for part in 1..=PARTS {
        let until = begun + deadline.saturating_duration_since(begun).mul_f64(part as f64 / PARTS as f64);
        // The least number of rounds is that of all parts together.
        if part == 1 || Instant::now() < until {
            repeat(device, &mut all, until)?;
        }
        bar.set(total - PARTS + part, total, Unit::Items);
    }
    Ok(all.iter().map(Measured::sample).collect())
}

/// The closest alternatives, and the first of each other algorithm.
fn shown(choices: &[Choice]) -> Vec<Choice> {
    let best = choices.first().map_or(0.0, |choice| choice.seconds);
    let mut algorithms = Vec::new();
    let mut shown = Vec::new();
    for &choice in choices {
        let algorithm = discriminant(&choice.algorithm);
        let close = choice.seconds <= best * ALTERNATIVES.1 && shown.len() < ALTERNATIVES.0;
        if close || (choice.seconds <= best * OTHERS && !algorithms.contains(&algorithm)) {
            algorithms.push(algorithm);
            shown.push(choice);
        }
    }
    shown
}

pub(super) fn grid(grid: [Groups; 3], sizes: Sizes) -> Option<[u32; 3]> {
    let count = |axis: usize| grid[axis].count(sizes).and_then(|n| u32::try_from(n).ok());
    Some([count(0)?, count(1)?, count(2)?])
}

/// Numbers for a binding of one of the probes, in one sequence.
fn contents(slot: Slot, operation: &Operation, sizes: Sizes) -> Result<Vec<u8>, CliError> {
    let rows = sizes.tokens.next_multiple_of(ROW_BLOCK) as usize;
    let words = |words: Vec<u32>| words.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    let tokens = sizes.tokens as u32;
    Ok(match slot {
        Slot::Step => words(vec![tokens, 1, 0, 0]),
        Slot::Rows => words((0..rows as u32).flat_map(|row| [row.min(tokens - 1), 0, tokens, 0]).collect()),
        Slot::W => match operation.inner() {
            Operation::Linear { x, n, format, .. } => {
                let width = x.width as usize;
                let values: Vec<f32> = numbers(width * n.next_multiple_of(4) as usize).collect();
                let packed = format.pack(&values, width).map_err(|e| CliError::Failed(e.to_string()))?;
                return Ok(format.arrange(&packed, width));
            }
            _ => Vec::new(),
        },
        _ => numbers(rows * WIDTH.max(RESULT[1]) as usize).flat_map(f32::to_le_bytes).collect(),
    })
}

/// Numbers between -1 and 1.
fn numbers(count: usize) -> impl Iterator<Item = f32> {
    (0..count).map(|i| (i.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 32_768.0 - 1.0)
}
