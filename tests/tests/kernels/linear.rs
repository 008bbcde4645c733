//! Linear: odd sizes, formats, epilogues, windows.

use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Binary, Operand, Operation, Rows, Term, Unary, View};

use crate::data::{Batch, Data};
use crate::{all_kernels, check, everywhere, kernels};

struct Case {
    x: View,
    n: u32,
    out: View,
    format: Format,
    paired: bool,
    term: Term,
    operands: Vec<Operand>,
    rows: u32,
    scale: f32,
    every_tile: bool,
}

impl Case {
    fn new(k: u32, n: u32, rows: u32) -> Case {
        Case {
            x: View::whole(k),
            n,
            out: View::whole(n),
            format: Format::F32,
            paired: false,
            term: Term::Acc,
            operands: Vec::new(),
            rows,
            scale: 1.0,
            every_tile: false,
        }
    }

    fn run(self) {
        let Case { x, n, out, format, paired, term, operands, rows, scale, every_tile } = self;
        let k = x.width as usize;
        let mut data = Data::new(Batch::new(&[rows]), u64::from(n * 31 + rows));
        data.matrix(Slot::X, x, rows as usize, scale);
        data.weight(Slot::W, n as usize, k, format, 1.0);
        if paired {
            data.weight(Slot::W2, n as usize, k, format, 1.0);
        }
        data.operands(&operands, n as usize, rows as usize, 1.0);
        let bound = operands.iter().filter(|operand| **operand != Operand::Result);
        let (count, u) = (bound.count(), 0.5f64.powi(24));
        // Products with rounding errors of the sum, and the sum of magnitudes that bounds them. What is scaled after its
        // zero point is taken off is a difference of numbers up to the span of its row.
        let span = |slot, n: usize| match format.is_quantized() {
            true => (0..k).fold(0.0, |most, i| f64::max(most, data.weight_at(slot, k, n, i).abs())) * 4.0,
            false => 0.0,
        };
        let dot = |slot, m: usize, n: usize| {
            let span = span(slot, n);
            (0..k).fold((0.0, 0.0), |(sum, size), i| {
                let (x, w) = (data.at(Slot::X, x, m, i), data.weight_at(slot, k, n, i));
                (sum + x * w, size + (x * w).abs() + x.abs() * span / k as f64)
            })
        };
        let mut expected = vec![(0.0, 0.0); rows as usize * n as usize];
        for m in 0..rows as usize {
            for column in 0..n as usize {
                let (a, size) = dot(Slot::W, m, column);
                let (b, size2) = if paired { dot(Slot::W2, m, column) } else { (1.0, 1.0) };
                let value = data.term(&term, &operands, n as usize, (m, column), [a, b]);
                let rounding = (k as f64 + 8.0) * u * (size + size2) * (1.0 + a.abs().min(b.abs()));
                expected[m * n as usize + column] = (value, 1.2 * rounding + 2e-6 * (1.0 + value.abs()));
            }
        }
        let operation = Operation::Linear { x, n, format, paired, term, operands, out, rows: Rows::Tokens };
        everywhere(|device, target| {
            let compose = if every_tile { all_kernels } else { kernels };
            for kernel in compose(&operation, target) {
                assert_eq!(kernel.slots.len(), 4 + usize::from(paired) + count);
                check(device, &kernel, &data, (out, rows as usize), |m, n| Some(expected[m * out.width as usize + n]));
            }
        });
    }
}

fn add(a: Term, b: Term) -> Term {
    Term::Binary(Binary::Add, Box::new(a), Box::new(b))
}

/// A residual that the result is written over.
#[test]
fn written_over() {
    let term = add(Term::Binary(Binary::Mul, Box::new(Term::Acc), Box::new(Term::Operand(0))), Term::Operand(1));
    let operands = vec![Operand::Vector, Operand::Result];
    for (k, n, rows) in [(60, 37, 7), (136, 44, 37), (384, 40, 1)] {
        Case { term: term.clone(), operands: operands.clone(), every_tile: true, ..Case::new(k, n, rows) }.run();
    }
}

#[test]
fn odd_sizes() {
    for (k, n, rows) in [(60, 37, 7), (72, 509, 2), (15, 1, 65), (1, 4, 1), (384, 40, 37)] {
        Case::new(k, n, rows).run();
    }
}

#[test]
fn formats() {
    for format in [Format::F16, Format::Bf16] {
        Case { format, ..Case::new(72, 60, 33) }.run();
        Case { format, ..Case::new(15, 6, 1) }.run();
    }
}

/// Rows that loads, groups and octets fill, and rows that they don't; rows of one group whatever its size.
#[test]
fn quantized_weights() {
    for format in Format::QUANTIZED {
        for (k, n, rows) in [(256, 12, 1), (60, 37, 9)] {
            Case { format, ..Case::new(k, n, rows) }.run();
        }
    }
}

/// Groups that loads don't fill, and that don't fill loads.
#[test]
fn quantized_weights_of_odd_groups() {
    let shapes = [(232, 1), (77, 20)].into_iter().cycle();
    for (i, n) in [8, 16, 24, 40, 56, 96].into_iter().enumerate() {
        let group = Group::Of(n);
        let formats = [Format::Int8(group), Format::Int4 { group, zeros: true }, Format::Nf4(group)];
        // Each with one of the shapes, and the next time with the other one.
        for (format, (k, rows)) in formats.into_iter().zip(shapes.clone().skip(i)) {
            Case { format, ..Case::new(k, 8, rows) }.run();
        }
    }
    let rows = Format::Int4 { group: Group::Row, zeros: true };
    Case { format: rows, ..Case::new(100, 8, 2) }.run();
}

/// Each format is a test of its own, so that drivers compile for several at once.
fn in_all_tiles(format: Format) {
    Case { format, every_tile: true, ..Case::new(136, 44, 37) }.run();
}

#[test]
fn int8_by_row_in_all_tiles() {
    in_all_tiles(Format::Int8(Group::Row));
}

#[test]
fn int8_in_groups_in_all_tiles() {
    in_all_tiles(Format::Int8(Group::Of(32)));
}

#[test]
fn int4_in_all_tiles() {
    in_all_tiles(Format::Int4 { group: Group::Of(32), zeros: true });
}

#[test]
fn mxfp4_in_all_tiles() {
    in_all_tiles(Format::Mxfp4);
}

#[test]
fn quantized_pairs_and_views() {
    let gate = Term::Binary(Binary::Mul, Box::new(Term::Unary(Unary::Silu, Box::new(Term::Acc))), Box::new(Term::Acc2));
    let group = Group::Of(32);
    for format in [Format::Int8(Group::Row), Format::Int4 { group, zeros: true }, Format::Mxfp4] {
        Case { paired: true, term: gate.clone(), format, ..Case::new(72, 44, 2) }.run();
        for offset in [0, 5, 35] {
            Case { format, x: View { width: 61, stride: 96, offset, image: false }, ..Case::new(61, 20, 5) }.run();
        }
    }
}

#[test]
fn bias_and_residual() {
    let wide = View { width: 30, stride: 104, offset: 5, image: false };
    for residual in [View::whole(30), View { width: 30, stride: 96, offset: 8, image: false }, wide] {
        let term = add(add(Term::Acc, Term::Operand(0)), Term::Operand(1));
        let operands = vec![Operand::Vector, Operand::Matrix(residual)];
        Case { term, operands, ..Case::new(60, 30, 19) }.run();
    }
}

#[test]
fn activations_and_extreme_magnitudes() {
    for function in [Unary::Gelu, Unary::GeluTanh, Unary::Silu, Unary::Relu, Unary::Tanh, Unary::Sigmoid] {
        for scale in [1.0, 1e-6, 1e4] {
            let term = Term::Unary(function, Box::new(add(Term::Acc, Term::Operand(0))));
            Case { term, operands: vec![Operand::Vector], scale, ..Case::new(8, 12, 9) }.run();
        }
    }
}

#[test]
fn gated_pair() {
    let term = Term::Binary(Binary::Mul, Box::new(Term::Unary(Unary::Silu, Box::new(Term::Acc))), Box::new(Term::Acc2));
    Case { paired: true, term: term.clone(), format: Format::F16, ..Case::new(72, 44, 21) }.run();
    Case { paired: true, term, ..Case::new(60, 9, 1) }.run();
}

#[test]
fn views_with_offsets() {
    for offset in [0, 4, 5, 8, 35] {
        Case { x: View { width: 61, stride: 96, offset, image: false }, ..Case::new(61, 20, 5) }.run();
    }
}

#[test]
fn windows_leave_other_columns_alone() {
    for (n, offset) in [(20, 0), (20, 8), (20, 3), (21, 8), (1, 63)] {
        Case { out: View { width: n, stride: 64, offset, image: false }, ..Case::new(24, n, 13) }.run();
    }
}

#[test]
fn every_tile() {
    Case { every_tile: true, ..Case::new(24, 44, 37) }.run();
}

/// lavapipe 22.3 stops an invocation after 65,535 iterations of its loops, silently.
#[test]
fn as_many_loop_iterations_as_a_driver_makes() {
    Case { every_tile: true, ..Case::new(8 * 65_534, 4, 1) }.run();
}
