#![allow(clippy::unwrap_used, clippy::panic)]
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

use warpweft_plan::{CacheFormat, CacheRows};

use super::*;
use crate::formats::{Format, Group};
use crate::kernels::moments;
use crate::kernels::spec::*;

const FILES: [(&str, &str); 24] = [
    ("codes/quantize", include_str!("../codes/quantize.wgsl")),
    ("codes/dequantize", include_str!("../codes/dequantize.wgsl")),
    ("integer/broadcast_tile", include_str!("../integer/broadcast_tile.wgsl")),
    ("integer/workgroup_tile", include_str!("../integer/workgroup_tile.wgsl")),
    ("columns/gather", include_str!("../columns/gather.wgsl")),
    ("per-head/dot", include_str!("../per-head/dot.wgsl")),
    ("linear/broadcast_tile", include_str!("../linear/broadcast_tile.wgsl")),
    ("linear/workgroup_tile", include_str!("../linear/workgroup_tile.wgsl")),
    ("linear/split_dot", include_str!("../linear/split_dot.wgsl")),
    ("attention/broadcast_tile", include_str!("../attention/broadcast_tile.wgsl")),
    ("attention/workgroup_tile", include_str!("../attention/workgroup_tile.wgsl")),
    ("normalize/subgroup", include_str!("../normalize/subgroup.wgsl")),
    ("normalize/streamed", include_str!("../normalize/streamed.wgsl")),
    ("normalize/workgroup", include_str!("../normalize/workgroup.wgsl")),
    ("map/pointwise", include_str!("../map/pointwise.wgsl")),
    ("pool/columns", include_str!("../pool/columns.wgsl")),
    ("attention/cached_broadcast", include_str!("../attention/cached_broadcast.wgsl")),
    ("attention/cached_workgroup", include_str!("../attention/cached_workgroup.wgsl")),
    ("attention/combine", include_str!("../attention/combine.wgsl")),
    ("heads/pairs", include_str!("../heads/pairs.wgsl")),
    ("heads/ready", include_str!("../heads/ready.wgsl")),
    ("candidates/chunk", include_str!("../candidates/chunk.wgsl")),
    ("candidates/row", include_str!("../candidates/row.wgsl")),
    ("candidates/merge", include_str!("../candidates/merge.wgsl")),
];

#[test]
fn every_file_is_a_kernel_as_it_stands() {
    for (name, source) in FILES {
        if let Err(error) = validate::check(source, true, false) {
            panic!("{name}: {error}");
        }
        let filled = unroll::unroll(&template::fill(source, &[]).unwrap()).unwrap().wgsl;
        if let Err(error) = validate::check(&filled, true, false) {
            panic!("{name} unrolled: {error}");
        }
    }
}

/// What a choice is made by is what the kernel's own counts give.
#[test]
fn a_choice_is_predicted_as_its_kernel_is() {
    let rows = [RowRange { min: 1, max: Some(1) }, RowRange { min: 17, max: None }];
    let mut checked = 0;
    for target in ["webgpu", "subgroup8"].map(|name| Target::named(name).unwrap()) {
        for operation in operations() {
            for tokens in rows {
                let choices = candidates(&operation, target, operation.row_range(tokens)).unwrap();
                for choice in choices.into_iter().filter(|c| c.algorithm != Algorithm::Only).take(3) {
                    let Ok(composed) = written(&operation, choice, target) else { continue };
                    let seconds = composed.seconds(&target.rates, operation.sizes(tokens));
                    assert!((seconds / choice.seconds - 1.0).abs() < 1e-9, "{}: {seconds} {choice:?}", composed.name);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

fn operations() -> Vec<Operation> {
    let bias = || Term::Binary(Binary::Add, Box::new(Term::Acc), Box::new(Term::Operand(0)));
    let gelu = Term::Unary(Unary::Gelu, Box::new(bias()));
    let silu = || Box::new(Term::Unary(Unary::Silu, Box::new(Term::Acc)));
    let gate = || Term::Binary(Binary::Mul, silu(), Box::new(Term::Acc2));
    let linear = |format, paired, term, operands| Operation::Linear {
        x: View::whole(60),
        n: 30,
        format,
        paired,
        term,
        operands,
        out: View::whole(30),
        rows: Rows::Tokens,
    };
    let attention = |dim: u32, kv_heads| {
        let scale = Term::Binary(Binary::Mul, Box::new(Term::Acc), Box::new(Term::Constant(0.25)));
        let mask = Term::BandMask { before: Some(4), after: Some(4) };
        Operation::Attention(Attention {
            q: View { width: 4 * dim, stride: (12 * dim).next_multiple_of(8), offset: 0, image: false },
            k: View { width: kv_heads * dim, stride: (12 * dim).next_multiple_of(8), offset: 4 * dim, image: false },
            v: View { width: kv_heads * dim, stride: (12 * dim).next_multiple_of(8), offset: 8 * dim, image: false },
            heads: 4,
            kv_heads,
            term: Term::Binary(Binary::Add, Box::new(scale), Box::new(mask)),
            max_context: 512,
            image: false,
        })
    };
    let gather = |format, first, index| Operand::Gather { format, first, rows: 100, index };
    let normalize = |norm, width| Operation::Normalize {
        norm,
        eps: 1e-12,
        width,
        input: Term::Binary(Binary::Add, Box::new(Term::Operand(0)), Box::new(Term::Operand(1))),
        term: Term::Binary(Binary::Mul, Box::new(Term::Acc), Box::new(Term::Operand(2))),
        then: None,
        operands: vec![gather(Format::F16, 7, Index::Ids), gather(Format::F32, 0, Index::Positions), Operand::Vector],
        rows: Rows::Tokens,
        image: false,
    };
    let mut operations = vec![
        linear(Format::Bf16, true, gate(), Vec::new()),
        attention(32, 4),
        attention(15, 2),
        attention(256, 1),
        normalize(Norm::Layer, 384),
        normalize(Norm::Rms, 60),
        normalize(Norm::L2, 3000),
        Operation::Map {
            width: 13,
            term: Term::Unary(Unary::GeluTanh, Box::new(Term::Operand(0))),
            operands: vec![Operand::Matrix(View { width: 13, stride: 40, offset: 5, image: false })],
            rows: Rows::Sequences,
        },
    ];
    for width in [60, 3000] {
        operations.push(Operation::Normalize {
            norm: Norm::Rms,
            eps: 1e-6,
            width,
            input: Term::Operand(0),
            term: Term::Binary(Binary::Add, Box::new(Term::Acc), Box::new(Term::Operand(1))),
            then: Some(RowNorm { norm: Norm::Rms, eps: 1e-6, term: Term::Acc }),
            operands: vec![Operand::Matrix(View::whole(width)), Operand::Result],
            rows: Rows::Tokens,
            image: false,
        });
    }
    operations.extend(Format::FLOATS.map(|format| Operation::PerHead {
        x: View { width: 36, stride: 64, offset: 5, image: false },
        heads: 3,
        n: 7,
        format,
        rows: Rows::Tokens,
    }));
    operations.extend(Format::FLOATS.map(|f| linear(f, false, gelu.clone(), vec![Operand::Vector])));
    for pool in [Pool::Mean, Pool::First, Pool::Max, Pool::Last] {
        operations.push(Operation::Pool { pool, x: View::whole(20), max_context: 512 });
    }
    for interleaved in [false, true] {
        let rotation = Some(Rotation { rotary: 16, interleaved, scale: 1.5, frequencies: 0 });
        let part = HeadPart { x: View::whole(40), heads: 2, norm: None, rotation, to: Destination::Rows };
        operations.push(Operation::Heads { parts: vec![part], vector: 8 });
    }
    let normed = |operation: &Operation| match operation {
        Operation::Linear { .. } => {
            Some(prologues().map(|prologue| Operation::NormedLinear { prologue, linear: Box::new(operation.clone()) }))
        }
        _ => None,
    };
    operations.extend(operations.iter().filter_map(normed).flatten().collect::<Vec<_>>());
    // A format for each way to scale and each function that unpacks.
    let (odd, quarter) = (Group::Of(24), Group::Of(8));
    let quantized = [
        Format::Int8(Group::Row),
        Format::Int8(Group::Of(32)),
        Format::Int4 { group: Group::Of(64), zeros: true },
        Format::Int4 { group: quarter, zeros: true },
        Format::Int4 { group: Group::Row, zeros: true },
        Format::Int4 { group: odd, zeros: false },
        Format::Fp8(Group::Of(128)),
        Format::Mxfp4,
        Format::Nf4(Group::Row),
    ];
    for format in quantized {
        let [prologue, ..] = prologues();
        let plain = linear(format, false, gelu.clone(), vec![Operand::Vector]);
        operations.push(Operation::NormedLinear { prologue, linear: Box::new(plain.clone()) });
        operations.push(plain);
        operations.push(linear(format, true, gate(), Vec::new()));
        let x = View { width: 36, stride: 64, offset: 5, image: false };
        operations.push(Operation::PerHead { x, heads: 3, n: 7, format, rows: Rows::Tokens });
        let (term, operands) = (Term::Operand(0), vec![gather(format, 7, Index::Ids)]);
        operations.push(Operation::Map { width: 60, term, operands, rows: Rows::Tokens });
    }
    let over = |x| Operation::Linear {
        x,
        n: 44,
        format: Format::Bf16,
        paired: false,
        term: Term::Binary(Binary::Add, Box::new(Term::Acc), Box::new(Term::Operand(0))),
        operands: vec![Operand::Result, Operand::Vector],
        out: View::whole(44),
        rows: Rows::Tokens,
    };
    operations.push(over(View::whole(60)));
    operations.push(Operation::GainedLinear { gain: 1, linear: Box::new(over(View::whole(60))) });
    operations.push(Operation::ScaledLinear { eps: 1e-5, linear: Box::new(over(moments::view(60))) });
    let integers = [
        linear(Format::Int8(Group::Row), true, gate(), Vec::new()),
        linear(Format::Int8(Group::Of(32)), false, gelu, vec![Operand::Vector]),
    ];
    operations.extend(integers.map(|linear| Operation::IntegerLinear(Box::new(linear))));
    for (width, offset) in [(60, 0), (13, 5), (384, 8)] {
        let x = View { width, stride: 400, offset, image: false };
        operations.push(Operation::Quantize { x, rows: Rows::Tokens });
        operations.push(Operation::Dequantize { width, rows: Rows::Sequences });
    }
    operations.extend(cached_operations());
    operations
}

/// A gain, a gain and a bias, and a norm of a sum with a norm.
fn prologues() -> [Prologue; 3] {
    let operand = |i| Box::new(Term::Operand(i));
    let gained = || Term::Binary(Binary::Mul, Box::new(Term::Acc), operand(0));
    let norm = |norm, term| RowNorm { norm, eps: 1e-6, term };
    let biased = Term::Binary(Binary::Add, Box::new(gained()), operand(1));
    let matrix = Operand::Matrix(View::whole(60));
    [
        Prologue { norms: vec![norm(Norm::Rms, gained())], operands: vec![Operand::Vector], carried: false },
        Prologue {
            norms: vec![norm(Norm::Layer, biased.clone())],
            operands: vec![Operand::Vector, Operand::Vector],
            carried: true,
        },
        Prologue {
            norms: vec![norm(Norm::Rms, biased), norm(Norm::Rms, gained())],
            operands: vec![Operand::Vector, matrix],
            carried: true,
        },
    ]
}

fn cached_operations() -> Vec<Operation> {
    let mut operations = Vec::new();
    let always = cached::Uncut { places: u32::MAX, keys: 0 };
    let mask = |before| Term::BandMask { before, after: Some(0) };
    use CacheFormat::{F16, F32, Fp8, Int8};
    for (dim, heads, kv_heads, before, max_context, format) in [
        (20, 3, 1, None, 300, F16),
        (20, 3, 1, None, 300, Int8),
        (20, 3, 1, None, 300, Fp8),
        (15, 4, 2, None, 300, F32),
        (128, 16, 8, None, 40960, F16),
        (128, 16, 8, None, 40960, Int8),
        (64, 32, 8, None, 131072, F16),
        (64, 32, 8, None, 131072, Fp8),
        (256, 8, 4, Some(511), 8192, F16),
        (32, 4, 4, Some(4095), 32768, F32),
    ] {
        let term = Term::Binary(Binary::Add, Box::new(Term::Acc), Box::new(mask(before)));
        for cut in [cached::split(&term, max_context, heads, always), None] {
            let attention = Attention {
                q: View::whole(heads * dim),
                k: View::whole(kv_heads * dim),
                v: View::whole(kv_heads * dim),
                heads,
                kv_heads,
                term: term.clone(),
                max_context,
                image: false,
            };
            let part = |first: u32, of: u32, to| HeadPart {
                x: View {
                    width: of * dim,
                    stride: ((heads + 2 * kv_heads) * dim).next_multiple_of(8),
                    offset: first * dim,
                    image: false,
                },
                heads: of,
                norm: (of == heads).then_some(HeadNorm { eps: 1e-6, gain: Some(dim / 2) }),
                rotation: (first <= heads).then_some(Rotation {
                    rotary: dim / 4 * 2,
                    interleaved: heads == 16,
                    scale: 1.0,
                    frequencies: 0,
                }),
                to,
            };
            let fresh = Fresh {
                q: part(0, heads, Destination::Rows),
                k: part(heads, kv_heads, Destination::Cache(format)),
                v: part(heads + kv_heads, kv_heads, Destination::Cache(format)),
                vector: dim / 2 + dim,
            };
            let rows = CacheRows { format, heads: kv_heads, columns: dim };
            operations.extend([None, Some(fresh)].map(|fresh| Operation::CachedAttention {
                attention: attention.clone(),
                caches: [rows; 2],
                fresh,
                split: cut,
            }));
            if let Some(split) = cut {
                operations.push(Operation::CombineAttention {
                    heads,
                    value_dim: dim,
                    term: term.clone(),
                    split,
                    image: false,
                });
            }
        }
    }
    let part = |offset, norm, rotation, to| HeadPart {
        x: View { width: 48, stride: 144, offset, image: false },
        heads: 3,
        norm,
        rotation,
        to,
    };
    let rotation = Rotation { rotary: 8, interleaved: true, scale: 2.0, frequencies: 0 };
    let norm = HeadNorm { eps: 1e-6, gain: Some(4) };
    for format in CacheFormat::ALL {
        let cache = Destination::Cache(format);
        operations.push(Operation::Heads { parts: vec![part(0, None, None, cache)], vector: 0 });
        operations.push(Operation::Heads {
            parts: vec![part(0, Some(norm), Some(rotation), Destination::Rows), part(48, None, Some(rotation), cache)],
            vector: 20,
        });
    }
    for (width, n) in [(20, 20), (509, 256), (8192, 256), (8193, 256), (262_144, 256)] {
        let x = View::whole(width);
        operations.push(Operation::CandidateChunks { x, rows: Rows::Sequences });
        operations.push(Operation::Candidates { x, n, rows: Rows::Sequences });
    }
    operations
}

#[test]
fn long_loops_are_another_choice_or_an_error() {
    let linear = |k| Operation::Linear {
        x: View::whole(k),
        n: 8,
        format: Format::F16,
        paired: false,
        term: Term::Acc,
        operands: Vec::new(),
        out: View::whole(8),
        rows: Rows::Tokens,
    };
    let rows = RowRange { min: 1, max: None };
    let target = Target::named("subgroup8").unwrap();
    let first = candidates(&linear(8 * 100_003), target, rows).unwrap()[0];
    // Four k each: a large tile.
    let trips = 200_006;
    let error = compose(&linear(8 * 100_003), first, target).unwrap_err();
    assert_eq!(error, KernelError::LoopTrips { trips, limit: 65_535 });
    assert!(lower(&linear(8 * 100_003), target, rows).unwrap().name.contains("split"));
    assert!(matches!(lower(&linear(8 * 9_000_000), target, rows), Err(KernelError::LoopTrips { .. })));
    let pool = Operation::Pool { pool: Pool::Mean, x: View::whole(8), max_context: 70_000 };
    assert!(matches!(lower(&pool, target, rows), Err(KernelError::LoopTrips { .. })));
}

#[test]
fn too_many_buffers_are_an_error() {
    let sum = |i| Term::Binary(Binary::Add, Box::new(Term::Operand(i)), Box::new(Term::Operand(i + 1)));
    let map =
        |count| Operation::Map { width: 8, term: sum(0), operands: vec![Operand::Vector; count], rows: Rows::Tokens };
    let rows = RowRange { min: 1, max: None };
    let target = &Target::all()[0];
    assert!(lower(&map(7), target, rows).is_ok());
    assert_eq!(lower(&map(8), target, rows), Err(KernelError::StorageBuffers { need: 9, limit: 8 }));
}

/// Of the tiles of an algorithm, one in so many is composed for a target.
const SAMPLED: u64 = 4;

/// For each operation, each algorithm, and tiles that are others for the next operation and the next target; all of them
/// together are thousands of shaders.
/// The first operation of a subgroup inside an `if`. Lanes that went another way have nothing to hand around, which drivers on
/// processors do not show: there the lanes of a subgroup are one vector.
fn handed_around_in_a_branch(wgsl: &str) -> Option<&str> {
    let mut open: Vec<bool> = Vec::new();
    for line in wgsl.lines() {
        let mut rest = line;
        while let Some(at) = rest.find(['{', '}']) {
            match &rest[at..=at] {
                "{" => open.push(["if (", "else"].iter().any(|word| rest[..at].contains(word))),
                _ => drop(open.pop()),
            }
            rest = &rest[at + 1..];
        }
        let operation = ["subgroupShuffle", "subgroupBroadcast", "subgroupAdd"].iter().any(|name| line.contains(name));
        if operation && open.contains(&true) {
            return Some(line);
        }
    }
    None
}

#[test]
fn branches_are_told_from_loops() {
    let text = |inner: &str| {
        format!("fn main() {{\n    for (;;) {{\n{inner}\n    }}\n    if (a) {{\n        x = 1;\n    }}\n}}")
    };
    let shuffle = "s += subgroupShuffleXor(s, 1u);";
    assert_eq!(handed_around_in_a_branch(&text(shuffle)), None);
    assert_eq!(handed_around_in_a_branch(&text(&format!("if (b) {{\n{shuffle}\n}}"))), Some(shuffle));
    assert_eq!(handed_around_in_a_branch(&text(&format!("if (b) {{\n}} else {{\n{shuffle}\n}}"))), Some(shuffle));
}

/// A file that knows no moments is an error for them, and not a kernel that forgets the scale.
#[test]
fn moments_need_their_file() {
    let target = Target::all().iter().find(|target| target.subgroup_size.is_some()).unwrap();
    let rows = RowRange { min: 1, max: Some(64) };
    for operation in operations().iter().filter(|operation| has_moments(operation)) {
        let others = candidates(operation.inner(), target, rows).unwrap().into_iter();
        for choice in others.filter(|choice| !matches!(choice.algorithm, Algorithm::LinearBroadcast(_))) {
            assert!(matches!(compose(operation, choice, target), Err(KernelError::Algorithm(_))), "{choice:?}");
        }
    }
}

fn has_moments(operation: &Operation) -> bool {
    matches!(operation, Operation::GainedLinear { .. } | Operation::ScaledLinear { .. })
}

fn every_algorithm_is_valid(index: u64, target: &Target) {
    for (operation, at) in operations().into_iter().zip(index..) {
        let rows = RowRange { min: 1, max: Some(64) };
        let choices = candidates(&operation, target, rows).unwrap();
        // Lanes of a subgroup make moments.
        assert_eq!(choices.is_empty(), target.subgroup_size.is_none() && has_moments(&operation));
        if choices.is_empty() {
            continue;
        }
        let mut algorithms = HashSet::new();
        for choice in choices {
            let mut hasher = DefaultHasher::new();
            choice.algorithm.hash(&mut hasher);
            let first = algorithms.insert(discriminant(&choice.algorithm));
            if !first && !hasher.finish().wrapping_add(at).is_multiple_of(SAMPLED) {
                continue;
            }
            let kernel = match compose(&operation, choice, target) {
                Ok(kernel) => kernel,
                Err(error) => panic!("{choice:?} on {}: {error}", target.name),
            };
            assert_eq!(kernel.slots.len(), kernel.bindings.len());
            // A row that a contraction leaves behind comes after all else.
            let step = kernel.slots.iter().position(|slot| *slot == Slot::Step).unwrap();
            let behind = &kernel.slots[step + 1..];
            assert!(matches!(kernel.slots[step - 1], Slot::Out | Slot::Part(_)), "{}", kernel.name);
            assert!(matches!(behind, [] | [Slot::Part(1)]), "{}", kernel.name);
            assert!(kernel.loop_trips <= 65535);
            assert_eq!(handed_around_in_a_branch(&kernel.wgsl), None, "{}", kernel.name);
            assert!(kernel.workgroup.iter().product::<u32>() <= target.limits.workgroup_invocations);
        }
        let lowered = lower(&operation, target, rows).unwrap();
        assert_eq!(lowered, lower(&operation, target, rows).unwrap(), "the choice is deterministic");
    }
}

#[test]
fn every_algorithm_is_valid_on_every_target() {
    std::thread::scope(|scope| {
        for (target, index) in Target::all().iter().zip(0..) {
            scope.spawn(move || every_algorithm_is_valid(index, target));
        }
    });
}
