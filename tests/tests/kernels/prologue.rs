//! Norms in front of a linear: odd rows, large means, extreme magnitudes, and the rows that are left behind.

use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Binary, Norm, Operand, Operation, Prologue, RowNorm, Rows, Term, Unary, View};
use warpweft_tests::gpu;

use crate::data::{Batch, Data, UNTOUCHED, bytes, floats};
use crate::{all_kernels, everywhere, kernels};

struct Case {
    x: View,
    n: u32,
    rows: u32,
    norms: Vec<RowNorm>,
    operands: Vec<Operand>,
    carried: bool,
    format: Format,
    paired: bool,
    /// Numbers of x are the mean and up to so much more or less.
    scale: f32,
    mean: f32,
    every_tile: bool,
}

fn binary(operator: Binary, a: Term, b: Term) -> Term {
    Term::Binary(operator, Box::new(a), Box::new(b))
}

fn gained(i: usize) -> Term {
    binary(Binary::Mul, Term::Acc, Term::Operand(i))
}

impl Case {
    fn new(k: u32, n: u32, rows: u32, norms: Vec<RowNorm>, operands: Vec<Operand>) -> Case {
        Case {
            x: View::whole(k),
            n,
            rows,
            norms,
            operands,
            carried: false,
            format: Format::F32,
            paired: false,
            scale: 1.0,
            mean: 0.0,
            every_tile: false,
        }
    }

    /// A gain: the scale may follow the contraction.
    fn rms(k: u32, n: u32, rows: u32) -> Case {
        Case::new(k, n, rows, vec![RowNorm { norm: Norm::Rms, eps: 1e-6, term: gained(0) }], vec![Operand::Vector])
    }

    /// A gain and a bias, and the rows are left behind.
    fn layer(k: u32, n: u32, rows: u32) -> Case {
        let term = binary(Binary::Add, gained(0), Term::Operand(1));
        let norms = vec![RowNorm { norm: Norm::Layer, eps: 1e-12, term }];
        Case { carried: true, ..Case::new(k, n, rows, norms, vec![Operand::Vector; 2]) }
    }

    /// A sum with a matrix, and a norm of that.
    fn twice(k: u32, n: u32, rows: u32) -> Case {
        let first = binary(Binary::Add, Term::Operand(0), gained(1));
        let norm = |term| RowNorm { norm: Norm::Rms, eps: 1e-6, term };
        let view = View { width: k, stride: (k + 16).next_multiple_of(8), offset: 8, image: false };
        let operands = vec![Operand::Matrix(view), Operand::Vector, Operand::Vector];
        Case { carried: true, ..Case::new(k, n, rows, vec![norm(first), norm(gained(2))], operands) }
    }

    /// The rows after each norm.
    fn normalised(&self, data: &Data) -> Vec<Vec<Vec<f64>>> {
        let k = self.x.width as usize;
        let row = |m: usize| -> Vec<Vec<f64>> {
            let mut row: Vec<f64> = (0..k).map(|i| data.at(Slot::X, self.x, m, i)).collect();
            let mut stages = Vec::new();
            for RowNorm { norm, eps, term } in &self.norms {
                let mean = if *norm == Norm::Layer { row.iter().sum::<f64>() / k as f64 } else { 0.0 };
                let square = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / k as f64;
                let value = |(i, v): (usize, &f64)| {
                    let acc = (v - mean) / (square + f64::from(*eps)).sqrt();
                    data.term_of(Slot::Prologue, term, &self.operands, k, (m, i), [acc, 0.0])
                };
                row = row.iter().enumerate().map(value).collect();
                stages.push(row.clone());
            }
            stages
        };
        (0..self.rows as usize).map(row).collect()
    }

    fn run(self) {
        let (rows, n, k) = (self.rows as usize, self.n as usize, self.x.width as usize);
        let mut data = Data::new(Batch::new(&[self.rows]), u64::from(self.n * 31 + self.rows));
        data.matrix(Slot::X, self.x, rows, self.scale);
        data.exactly(Slot::X, data.matrices[&Slot::X].iter().map(|v| v + self.mean).collect());
        for slot in [Slot::W, Slot::W2].into_iter().take(1 + usize::from(self.paired)) {
            data.weight(slot, n, k, self.format, 1.0);
        }
        data.operands_of(Slot::Prologue, &self.operands, k, rows, 1.0);
        let stages = self.normalised(&data);
        // What is left of a number's bits when the mean is taken off.
        let (u, lost) = (0.5f64.powi(24), 1.0 + f64::from((self.mean / self.scale).abs()));
        let dot = |slot, m: usize, column: usize| {
            stages[m][self.norms.len() - 1].iter().enumerate().fold((0.0, 0.0), |(sum, size), (i, v)| {
                let product = v * data.weight_at(slot, k, column, i);
                (sum + product, size + product.abs())
            })
        };
        let expected = |m: usize, column: usize| {
            let (a, size) = dot(Slot::W, m, column);
            let (b, size2) = if self.paired { dot(Slot::W2, m, column) } else { (1.0, 0.0) };
            let rounding = (k as f64 + 40.0) * u * lost * (size * b.abs() + size2 * a.abs());
            (a * b, 1.5 * rounding + 2e-6 * (1.0 + (a * b).abs()))
        };
        let prologue = Prologue { norms: self.norms.clone(), operands: self.operands.clone(), carried: self.carried };
        let linear = Operation::Linear {
            x: self.x,
            n: self.n,
            format: self.format,
            paired: self.paired,
            term: if self.paired { binary(Binary::Mul, Term::Acc, Term::Acc2) } else { Term::Acc },
            operands: Vec::new(),
            out: View::whole(self.n),
            rows: Rows::Tokens,
        };
        let operation = Operation::NormedLinear { prologue, linear: Box::new(linear) };
        let (out, carried) = (View::whole(self.n), View::whole(self.x.width));
        everywhere(|device, target| {
            let compose = if self.every_tile { all_kernels } else { kernels };
            for kernel in compose(&operation, target) {
                let capacity = rows.next_multiple_of(64);
                let outputs = gpu::run_all(device, &kernel, data.sizes(), |slot| match slot {
                    Slot::Out => bytes(&vec![UNTOUCHED; capacity * out.stride as usize], f32::to_le_bytes),
                    Slot::Part(1) => bytes(&vec![UNTOUCHED; capacity * carried.stride as usize], f32::to_le_bytes),
                    slot => data.bytes(slot),
                });
                assert_eq!(outputs.len(), 1 + usize::from(self.carried));
                compare(&kernel.name, &floats(&outputs[0]), out, rows, expected);
                let left = |m: usize, i: usize| {
                    let value: f64 = stages[m][0][i];
                    (value, 60.0 * u * lost * (1.0 + value.abs()))
                };
                for found in &outputs[1..] {
                    compare(&kernel.name, &floats(found), carried, rows, left);
                }
            }
        });
    }
}

/// Each element of a whole matrix; behind its rows nothing is written.
fn compare(name: &str, found: &[f32], view: View, rows: usize, expected: impl Fn(usize, usize) -> (f64, f64)) {
    for (at, &value) in found.iter().enumerate() {
        let (m, column) = (at / view.stride as usize, at % view.stride as usize);
        if m >= rows {
            assert_eq!(value, UNTOUCHED, "{name} wrote [{m}, {column}]");
        } else if column < view.width as usize {
            let (wanted, tolerance) = expected(m, column);
            let error = (f64::from(value) - wanted).abs();
            assert!(error <= tolerance, "{name}: [{m}, {column}] is {value}, not {wanted}: {error:e} > {tolerance:e}");
        } else {
            assert!(value.is_finite(), "{name}: [{m}, {column}] is {value}");
        }
    }
}

#[test]
fn prologues_of_odd_widths() {
    for (k, n, rows) in [(60, 37, 7), (15, 1, 17), (384, 40, 1)] {
        Case::rms(k, n, rows).run();
        Case::layer(k, n, rows).run();
        Case::twice(k, n, rows).run();
    }
}

#[test]
fn prologues_of_one_column() {
    Case::rms(1, 4, 1).run();
    Case::layer(1, 4, 3).run();
}

#[test]
fn prologues_of_windows() {
    for offset in [4, 5] {
        Case { x: View { width: 61, stride: 96, offset, image: false }, ..Case::layer(61, 20, 5) }.run();
        Case { x: View { width: 61, stride: 96, offset, image: false }, ..Case::rms(61, 20, 1) }.run();
    }
}

#[test]
fn prologues_of_extreme_magnitudes() {
    for scale in [1e-3, 1e15] {
        Case { scale, ..Case::rms(24, 12, 1) }.run();
        Case { scale, ..Case::layer(24, 12, 3) }.run();
        Case { scale, ..Case::twice(24, 12, 2) }.run();
    }
}

/// The variance of numbers that differ in their last bits: the mean comes off before squares are summed.
#[test]
fn layer_norms_of_large_means() {
    for (mean, rows) in [(1e3, 1), (-1e3, 5), (3e4, 1)] {
        Case { mean, ..Case::layer(72, 20, rows) }.run();
    }
}

#[test]
fn prologues_of_pairs_and_formats() {
    for format in [Format::F16, Format::Bf16] {
        Case { format, paired: true, ..Case::rms(72, 44, 1) }.run();
        Case { format, paired: true, ..Case::twice(72, 44, 3) }.run();
        Case { format, ..Case::layer(72, 44, 16) }.run();
    }
}

#[test]
fn prologues_of_quantized_weights() {
    let group = Group::Of(32);
    for format in [Format::Int8(Group::Row), Format::Int4 { group, zeros: true }, Format::Fp8(group)] {
        Case { format, paired: true, ..Case::rms(72, 44, 1) }.run();
        Case { format, ..Case::layer(60, 12, 1) }.run();
        Case { format, ..Case::twice(200, 20, 3) }.run();
    }
}

#[test]
fn terms_that_are_no_gain() {
    let term = Term::Unary(Unary::Silu, Box::new(gained(0)));
    let norms = vec![RowNorm { norm: Norm::Rms, eps: 1e-6, term }];
    Case::new(60, 20, 1, norms, vec![Operand::Vector]).run();
}

#[test]
fn every_tile_of_a_prologue() {
    Case { every_tile: true, ..Case::layer(24, 12, 9) }.run();
}
