//! Contractions that leave their rows with moments, and contractions of such rows.

use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::graph::moments::{GRANULE, count, first, width};
use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Binary, Operand, Operation, Rows, Term, View};
use warpweft_tests::gpu;

use crate::data::{Batch, Data, UNTOUCHED, bytes, floats};
use crate::{all_kernels, check, everywhere, kernels};

fn binary(operator: Binary, a: Term, b: Term) -> Term {
    Term::Binary(operator, Box::new(a), Box::new(b))
}

struct Case {
    k: u32,
    n: u32,
    rows: u32,
    format: Format,
    every_tile: bool,
}

impl Case {
    fn new(k: u32, n: u32, rows: u32) -> Case {
        Case { k, n, rows, format: Format::F32, every_tile: false }
    }

    fn run(self) {
        self.left();
        self.read(false);
        self.read(true);
    }

    /// The sum and how far it may be off, of f32 products.
    fn dot(&self, data: &Data, slot: Slot, x: View, m: usize, column: usize) -> (f64, f64) {
        let k = self.k as usize;
        let products = (0..k).map(|i| data.at(Slot::X, x, m, i) * data.weight_at(slot, k, column, i));
        let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p: f64| (sum + p, size + p.abs()));
        // Zero points are taken off afterwards.
        let slack = if self.format.is_quantized() { 8.0 } else { 1.0 };
        (sum, slack * (f64::from(self.k) + 8.0) * 0.5f64.powi(24) * (size + 1.0))
    }

    /// A residual that the result is written over, and a gain.
    fn left(&self) {
        let (n, rows) = (self.n as usize, self.rows as usize);
        let operands = vec![Operand::Result, Operand::Vector];
        let mut data = Data::new(Batch::new(&[self.rows]), u64::from(self.n * 31 + self.rows));
        data.matrix(Slot::X, View::whole(self.k), rows, 1.0);
        data.weight(Slot::W, n, self.k as usize, self.format, 1.0);
        data.operands(&operands, n, rows, 1.0);
        let term = binary(Binary::Add, Term::Acc, Term::Operand(0));
        let linear = Operation::Linear {
            x: View::whole(self.k),
            n: self.n,
            format: self.format,
            paired: false,
            term: term.clone(),
            operands: operands.clone(),
            out: View::whole(self.n),
            rows: Rows::Tokens,
        };
        let operation = Operation::GainedLinear { gain: 1, linear: Box::new(linear) };
        let expected: Vec<Vec<(f64, f64)>> = (0..rows)
            .map(|m| {
                let value = |column| {
                    let (acc, error) = self.dot(&data, Slot::W, View::whole(self.k), m, column);
                    let value = data.term(&term, &operands, n, (m, column), [acc, 0.0]);
                    (value, 1.5 * error + 2e-6 * (1.0 + value.abs()))
                };
                (0..n).map(value).collect()
            })
            .collect();
        let gain = |column: usize| f64::from(data.matrices[&Slot::Operand(1)][column]);
        let (out, gained) = (View::whole(self.n), View::whole(width(self.n)));
        let first = first(self.n) as usize;
        everywhere(|device, target| {
            let compose = if self.every_tile { all_kernels } else { kernels };
            let composed = compose(&operation, target);
            assert_eq!(composed.is_empty(), target.subgroup_size.is_none());
            for kernel in composed {
                let name = &kernel.name;
                let capacity = rows.next_multiple_of(64);
                let outputs = gpu::run_all(device, &kernel, data.sizes(), |slot| match slot {
                    Slot::Out => data.result(capacity * out.stride as usize),
                    Slot::Part(1) => bytes(&vec![UNTOUCHED; capacity * gained.stride as usize], f32::to_le_bytes),
                    slot => data.bytes(slot),
                });
                let close = |what: &str, m: usize, column: usize, value: f32, (wanted, error): (f64, f64)| {
                    let off = (f64::from(value) - wanted).abs();
                    assert!(
                        off <= error,
                        "{name}: {what}[{m}, {column}] is {value}, not {wanted}: {off:e} > {error:e}"
                    );
                };
                for (at, &value) in floats(&outputs[0]).iter().enumerate() {
                    let (m, column) = (at / out.stride as usize, at % out.stride as usize);
                    match expected.get(m) {
                        Some(row) if column < n => close("out", m, column, value, row[column]),
                        Some(_) => assert!(value.is_finite(), "{name}: [{m}, {column}] is {value}"),
                        None => assert_eq!(value, UNTOUCHED, "{name} wrote [{m}, {column}]"),
                    }
                }
                for (at, &value) in floats(&outputs[1]).iter().enumerate() {
                    let (m, column) = (at / gained.stride as usize, at % gained.stride as usize);
                    let Some(row) = expected.get(m) else {
                        assert_eq!(value, UNTOUCHED, "{name} wrote [{m}, {column}]");
                        continue;
                    };
                    let granule = column.checked_sub(first).map(|at| at * GRANULE as usize);
                    match granule {
                        None if column < n => {
                            let (wanted, error) = row[column];
                            let error = (error + 1e-6 * wanted.abs()) * gain(column).abs();
                            close("gained", m, column, value, (wanted * gain(column), error));
                        }
                        Some(from) if from < n => {
                            let of = &row[from..(from + GRANULE as usize).min(n)];
                            let sum = of.iter().map(|(v, _)| v * v).sum::<f64>();
                            let error = of.iter().map(|(v, e)| (2.0 * v.abs() + e) * e).sum::<f64>();
                            close("moments", m, column, value, (sum, error + 4e-6 * sum));
                        }
                        None | Some(_) => assert!(value.is_finite(), "{name}: [{m}, {column}] is {value}"),
                    }
                }
            }
        });
    }

    fn read(&self, paired: bool) {
        let (n, rows) = (self.n as usize, self.rows as usize);
        let whole = View::whole(width(self.k));
        let x = View { width: self.k, ..whole };
        let mut data = Data::new(Batch::new(&[self.rows]), u64::from(self.k * 31 + self.rows));
        data.matrix(Slot::X, whole, rows, 1.0);
        for slot in [Slot::W, Slot::W2].into_iter().take(1 + usize::from(paired)) {
            data.weight(slot, n, self.k as usize, self.format, 1.0);
        }
        let eps = 1e-5;
        let scale = |m: usize| {
            let sums = first(self.k)..first(self.k) + count(self.k);
            let sum: f64 = sums.map(|at| data.at(Slot::X, whole, m, at as usize).abs()).sum();
            1.0 / (sum / f64::from(self.k) + f64::from(eps)).sqrt()
        };
        let expected = |m: usize, column: usize| {
            let scale = scale(m);
            let of = |slot| self.dot(&data, slot, x, m, column);
            let (a, a_error) = of(Slot::W);
            let (b, b_error) = if paired { of(Slot::W2) } else { (1.0 / scale, 0.0) };
            let value = a * b * scale * scale;
            let error = (a.abs() * b_error + b.abs() * a_error + a_error * b_error) * scale * scale;
            Some((value, 1.5 * error + 4e-6 * (1.0 + value.abs())))
        };
        let linear = Operation::Linear {
            x,
            n: self.n,
            format: self.format,
            paired,
            term: if paired { binary(Binary::Mul, Term::Acc, Term::Acc2) } else { Term::Acc },
            operands: Vec::new(),
            out: View::whole(self.n),
            rows: Rows::Tokens,
        };
        let operation = Operation::ScaledLinear { eps, linear: Box::new(linear) };
        everywhere(|device, target| {
            let compose = if self.every_tile { all_kernels } else { kernels };
            for kernel in compose(&operation, target) {
                check(device, &kernel, &data, (View::whole(self.n), rows), expected);
            }
        });
    }
}

/// Widths of one sum and of several, of which the last is of fewer columns.
#[test]
fn odd_sizes() {
    for (k, n, rows) in [(60, 37, 7), (15, 1, 17), (128, 100, 1), (77, 132, 3)] {
        Case::new(k, n, rows).run();
    }
}

#[test]
fn every_tile() {
    Case { every_tile: true, ..Case::new(136, 44, 37) }.run();
}

#[test]
fn quantized_weights() {
    for format in [Format::Int8(Group::Row), Format::Int4 { group: Group::Of(32), zeros: true }] {
        Case { format, ..Case::new(128, 44, 5) }.run();
        Case { format, ..Case::new(96, 40, 1) }.run();
    }
    Case { format: Format::Bf16, ..Case::new(128, 44, 1) }.run();
}
