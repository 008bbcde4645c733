//! One program: the calls that an output needs, over slots.

use rustc_hash::{FxHashMap, FxHashSet};
use warpweft_plan::provenance::Origins;
use warpweft_plan::{Dim, Input as Table, OutputKind, PAD, Program, ROW_BLOCK, Sizes, Step};

use super::order::{Access, stages};
use super::slots::{Life, alive, assign};
use super::windows::{Use, Windows};
use super::{ComposedBody, Shared};
use crate::graph::{CacheId, FactError, Graph};
use crate::kernels::spec::{Operation, Rows};
use crate::kernels::{RowRange, Slot};
use crate::lower::{Call, Input, LoweredBody, Place, Source, Value};
use crate::roll::{Region, Rolled};
use crate::target::Target;

/// A body as a program of one target and range of rows has it.
#[derive(Clone, Copy, Debug)]
pub struct BodyProgram<'b> {
    /// The extracted graph.
    pub graph: &'b Graph,
    /// Its calls and kernels.
    pub composed: &'b ComposedBody,
}

/// What distinguishes a program.
#[derive(Clone, Copy, Debug)]
pub struct Part<'t> {
    /// Its target.
    pub target: &'t Target,
    /// Its range of rows.
    pub rows: RowRange,
    /// What it computes.
    pub output: OutputKind,
    /// Nodes of the model's graph whose values it keeps as well.
    pub taps: &'t [egg::Id],
}

/// A program that cannot be put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A value that no region computes; a bug.
    #[error("nothing computes {0}")]
    Missing(String),
    /// Programs whose attentions see different rows of a cache, or that store them in different ways; a bug.
    #[error("programs disagree on the window or the rows of cache {0}")]
    Cache(u32),
    /// A tap that is no matrix with a row for each token of the step.
    #[error("node {0} cannot be tapped: it has no row of its own for each token of the step")]
    Tap(String),
    /// A weight expression that does not type-check; a bug.
    #[error(transparent)]
    Fact(#[from] FactError),
}

/// A value of a region.
type Key = (usize, usize);

/// A call of a region.
struct Flat<'b> {
    region: usize,
    call: &'b Call,
    kernel: usize,
    reads: Vec<Key>,
}

impl Flat<'_> {
    fn writes(&self) -> impl Iterator<Item = Key> {
        self.call.values.iter().map(|&value| (self.region, value))
    }

    fn written(&self, at: usize) -> Key {
        (self.region, self.call.values.get(at).copied().unwrap_or(usize::MAX))
    }

    /// The caches that it touches, given which value is a cache.
    fn caches(&self, cache: impl Fn(Key) -> Option<CacheId>) -> Use<'_> {
        let operation = &self.call.operation;
        // What appends before it attends reads the caches that it writes.
        let appends = matches!(operation, Operation::CachedAttention { fresh: Some(_), .. });
        let reads = self.reads.iter().copied().chain(self.writes().filter(|_| appends));
        Use { operation, reads: reads.filter_map(&cache).collect(), writes: self.writes().filter_map(&cache).collect() }
    }
}

/// The calls of a program in their order, and how long their values live.
struct Laid<'b> {
    homes: FxHashMap<egg::Id, Key>,
    result: Key,
    tapped: Vec<Key>,
    windows: Windows,
    /// Each call with its stage.
    staged: Vec<(usize, Flat<'b>)>,
    lives: Vec<Life>,
    /// The life of each value in scratch buffers.
    known: FxHashMap<Key, usize>,
}

/// A value of a region.
fn value(rolled: &Rolled, bodies: &[&LoweredBody], (region, at): Key) -> Value {
    bodies[rolled.regions[region].body].values[at]
}

/// The cache of the model that a value is.
fn cache(rolled: &Rolled, bodies: &[&LoweredBody], key: Key) -> Option<CacheId> {
    match value(rolled, bodies, key).place {
        Place::Cache(c) => rolled.regions[key.0].caches.get(c).copied(),
        Place::Step | Place::Fixed(_) => None,
    }
}

/// Orders the calls that an output needs.
fn lay<'b>(
    model: &Graph,
    rolled: &Rolled,
    bodies: &[&'b LoweredBody],
    part: Part<'_>,
) -> Result<Laid<'b>, ScheduleError> {
    let missing = || ScheduleError::Missing(part.output.name().into());
    let wanted = model.output(part.output).ok_or_else(missing)?;
    let homes = homes(rolled, bodies);
    let result = *homes.get(&wanted).ok_or_else(missing)?;
    let untapped = |node: &egg::Id| ScheduleError::Missing(format!("tapped node {node}"));
    let tapped: Vec<Key> = part
        .taps
        .iter()
        .map(|node| homes.get(node).copied().ok_or_else(|| untapped(node)))
        .collect::<Result<_, _>>()?;
    let flat = flatten(rolled, bodies, &homes)?;
    // Of all calls, not only of those that this output needs: programs share caches.
    let uses: Vec<Use<'_>> = flat.iter().map(|step| step.caches(|key| cache(rolled, bodies, key))).collect();
    let windows = Windows::of(&uses);
    let results: Vec<Key> = [result].into_iter().chain(tapped.iter().copied()).collect();
    let flat = needed(flat, &results);
    let accesses = accesses(rolled, &flat, &homes)?;
    let mut staged: Vec<(usize, Flat<'_>)> = stages(&accesses).into_iter().zip(flat).collect();
    staged.sort_by_key(|(stage, _)| *stage);
    let value = |key| value(rolled, bodies, key);
    let scratch = |key: Key| !results.contains(&key) && !matches!(value(key).place, Place::Cache(_));
    let mut lives: Vec<Life> = Vec::new();
    let mut known: FxHashMap<Key, usize> = FxHashMap::default();
    for &(stage, ref step) in &staged {
        for (part, source) in step.call.over() {
            let over = resolve(&rolled.regions[step.region], step.region, source, &homes)?;
            let at = *known.get(&over).filter(|_| scratch(step.written(part))).ok_or_else(missing)?;
            known.insert(step.written(part), at);
        }
        for key in step.writes().chain(step.reads.iter().copied()).filter(|&key| scratch(key)) {
            let at = *known.entry(key).or_insert_with(|| {
                let image = key == step.written(0) && step.call.operation.is_image(Slot::Out);
                lives.push(Life { bytes: bytes(value(key), part.rows), image, first: stage, last: stage });
                lives.len() - 1
            });
            lives[at].last = stage;
        }
    }
    Ok(Laid { homes, result, tapped, windows, staged, lives, known })
}

/// The scratch buffers of a program, and what is alive in each of its stages: both as sizes.
///
/// # Errors
/// As [`assemble`].
pub fn scratch(
    model: &Graph,
    rolled: &Rolled,
    bodies: &[&LoweredBody],
    part: Part<'_>,
) -> Result<[Vec<Dim>; 2], ScheduleError> {
    let Laid { staged, lives, .. } = lay(model, rolled, bodies, part)?;
    let sizes = assign(&lives).sizes.into_iter().map(|(bytes, _)| bytes).collect();
    let stages = staged.last().map_or(0, |(stage, _)| stage + 1);
    Ok([sizes, (0..stages).map(|stage| alive(&lives, stage)).collect()])
}

/// Puts the regions' calls together into the program of one output; says of each step which region and call it is.
///
/// # Errors
/// When a region's argument is nothing that an earlier region computes.
pub fn assemble(
    model: &Graph,
    rolled: &Rolled,
    bodies: &[BodyProgram<'_>],
    part: Part<'_>,
    shared: &mut Shared,
) -> Result<(Program, Origins), ScheduleError> {
    let missing = || ScheduleError::Missing(part.output.name().into());
    let lowered: Vec<&LoweredBody> = bodies.iter().map(|body| &body.composed.lowered).collect();
    let Laid { homes, result, tapped, windows, staged, lives, known } = lay(model, rolled, &lowered, part)?;
    let value = |key| value(rolled, &lowered, key);
    let cache = |key| cache(rolled, &lowered, key);
    let rows_of = |key: Key| match value(key).place {
        Place::Cache(c) => lowered[rolled.regions[key.0].body].caches.get(c).copied(),
        Place::Step | Place::Fixed(_) => None,
    };
    let slots = assign(&lives);
    let buffers = shared.scratch(&slots.sizes);
    let places: FxHashMap<Key, usize> = known.iter().map(|(&key, &life)| (key, buffers[slots.of[life]])).collect();
    let Value { width, rows, .. } = value(result);
    let output = shared.output(part.output, rows.dim(), width);
    let mut taps = Vec::with_capacity(tapped.len());
    let mut kept: FxHashMap<Key, usize> = FxHashMap::from_iter([(result, output.buffer)]);
    for (at, &key) in tapped.iter().enumerate() {
        let Value { width, rows: Rows::Tokens, place: Place::Step } = value(key) else {
            return Err(ScheduleError::Tap(part.taps[at].to_string()));
        };
        let tap = shared.tap(at, width, kept.get(&key).copied());
        kept.insert(key, tap.buffer);
        taps.push(tap);
    }
    let mut steps = Vec::new();
    for &(stage, ref step) in &staged {
        let region = &rolled.regions[step.region];
        let body = &bodies[region.body];
        let composed = &body.composed.kernels[step.kernel];
        let window = step.caches(cache).caches().find_map(|cache| windows.get(cache));
        let place = |key: Key, shared: &mut Shared| match (value(key).place, places.get(&key)) {
            (Place::Cache(_), _) => {
                let cache = cache(key).ok_or_else(missing)?;
                shared.cache(cache, rows_of(key).ok_or_else(missing)?, windows.get(cache))
            }
            (Place::Step | Place::Fixed(_), Some(&buffer)) => Ok(buffer),
            (Place::Step | Place::Fixed(_), None) => kept.get(&key).copied().ok_or_else(missing),
        };
        let mut buffers = Vec::new();
        for slot in &composed.slots {
            buffers.push(match slot {
                Slot::Out => place(step.written(0), shared)?,
                Slot::Part(part) => place(step.written(*part), shared)?,
                Slot::Ids => shared.table(Table::Ids),
                Slot::Rows => shared.table(Table::Rows),
                Slot::Sequences => shared.table(Table::Sequences),
                Slot::Step => shared.table(Table::Step),
                Slot::Pages => shared.table(Table::pages_of(window)),
                Slot::X
                | Slot::W
                | Slot::W2
                | Slot::Q
                | Slot::K
                | Slot::V
                | Slot::Operand(_)
                | Slot::Prologue(_)
                | Slot::Vectors => {
                    let input = step.call.inputs.iter().find(|(s, _)| s == slot).map(|(_, input)| input);
                    match input.ok_or_else(|| ScheduleError::Missing(format!("{slot:?} of {}", composed.name)))? {
                        Input::Weight(weight) => shared.weight(model, region, body.graph, *weight)?,
                        Input::Vectors(nodes) => shared.vectors(model, region, body.graph, nodes)?,
                        Input::Activation(source) => {
                            let key = resolve(region, step.region, *source, &homes)?;
                            if let (Some(cache), Some(expected)) = (cache(key), step.call.operation.cached(*slot))
                                && rows_of(key) != Some(expected)
                            {
                                return Err(ScheduleError::Cache(cache.0));
                            }
                            place(key, shared)?
                        }
                    }
                }
            });
        }
        steps.push(Step {
            kernel: shared.kernel(composed, &step.call.meaning),
            buffers,
            grid: composed.grid,
            layer: region.layer,
            bytes: composed.bytes,
            flops: composed.flops,
            live: alive(&lives, stage),
        });
    }
    let origins = Origins {
        regions: staged.iter().map(|(_, step)| step.region).collect(),
        calls: staged.iter().map(|(_, step)| step.kernel).collect(),
    };
    let program = Program {
        target: part.target.name.clone(),
        tier: part.target.tier(),
        min_rows: part.rows.min,
        max_rows: part.rows.max,
        output,
        taps,
        steps,
        tunings: Vec::new(),
    };
    Ok((program, origins))
}

/// Room for a value. Where a program has few rows, room for a block of them is a constant, so that all values can share.
fn bytes(value: Value, rows: RowRange) -> Dim {
    let bytes = match value.place {
        Place::Fixed(bytes) => Dim::constant(bytes as i64),
        Place::Step | Place::Cache(_) => value.rows.dim() * (i64::from(value.width.next_multiple_of(PAD as u32)) * 4),
    };
    match rows.max.map(u64::from) {
        Some(rows) if rows <= ROW_BLOCK => {
            let most = bytes.eval(Sizes { tokens: ROW_BLOCK, sequences: rows, context: 0 });
            most.and_then(|n| i64::try_from(n).ok()).map_or(bytes, Dim::constant)
        }
        Some(_) | None => bytes,
    }
}

/// Where each node that crosses regions is computed.
fn homes(rolled: &Rolled, bodies: &[&LoweredBody]) -> FxHashMap<egg::Id, Key> {
    let mut homes = FxHashMap::default();
    for (at, region) in rolled.regions.iter().enumerate() {
        let outputs = &bodies[region.body].outputs;
        homes.extend(region.outputs.iter().zip(outputs).map(|(&node, &value)| (node, (at, value))));
    }
    homes
}

fn resolve(region: &Region, at: usize, source: Source, homes: &FxHashMap<egg::Id, Key>) -> Result<Key, ScheduleError> {
    match source {
        Source::Value(value) => Ok((at, value)),
        Source::Arg(arg) => {
            let node = region.args.get(arg).and_then(|node| homes.get(node));
            node.copied().ok_or_else(|| ScheduleError::Missing(format!("argument {arg} of region {at}")))
        }
    }
}

/// What each call needs and makes. Who writes over something needs whatever the others make that read it.
fn accesses(
    rolled: &Rolled,
    flat: &[Flat<'_>],
    homes: &FxHashMap<egg::Id, Key>,
) -> Result<Vec<Access<Key>>, ScheduleError> {
    let mut readers: FxHashMap<Key, Vec<usize>> = FxHashMap::default();
    for (at, call) in flat.iter().enumerate() {
        call.reads.iter().for_each(|key| readers.entry(*key).or_default().push(at));
    }
    let access = |(at, call): (usize, &Flat<'_>)| {
        let mut reads = call.reads.clone();
        for (_, source) in call.call.over() {
            let over = resolve(&rolled.regions[call.region], call.region, source, homes)?;
            let others = readers.get(&over).into_iter().flatten().filter(|other| **other != at);
            reads.extend(others.flat_map(|&other| flat[other].writes()));
        }
        Ok(Access { reads, writes: call.writes().collect() })
    };
    flat.iter().enumerate().map(access).collect()
}

fn flatten<'b>(
    rolled: &Rolled,
    bodies: &[&'b LoweredBody],
    homes: &FxHashMap<egg::Id, Key>,
) -> Result<Vec<Flat<'b>>, ScheduleError> {
    let mut flat = Vec::new();
    for (at, region) in rolled.regions.iter().enumerate() {
        for (kernel, call) in bodies[region.body].calls.iter().enumerate() {
            let mut reads = Vec::new();
            for (_, input) in &call.inputs {
                if let Input::Activation(source) = input {
                    reads.push(resolve(region, at, *source, homes)?);
                }
            }
            flat.push(Flat { region: at, call, kernel, reads });
        }
    }
    Ok(flat)
}

/// Only the calls that the results depend on.
fn needed<'b>(mut flat: Vec<Flat<'b>>, results: &[Key]) -> Vec<Flat<'b>> {
    let mut wanted: FxHashSet<Key> = results.iter().copied().collect();
    let mut keep = vec![false; flat.len()];
    for (i, step) in flat.iter().enumerate().rev() {
        if step.writes().any(|key| wanted.contains(&key)) {
            keep[i] = true;
            wanted.extend(step.reads.iter().copied());
        }
    }
    let mut keep = keep.into_iter();
    flat.retain(|_| keep.next().unwrap_or(false));
    flat
}
