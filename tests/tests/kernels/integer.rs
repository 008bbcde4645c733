//! Activations as codes, and contractions of codes with codes.

use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::kernels::spec::{Binary, Operand, Operation, Rows, Term, Unary, View};
use warpweft_compiler::kernels::{RowRange, Slot, candidates};
use warpweft_compiler::target::Target;
use warpweft_tests::gpu;

use crate::data::{self, Batch, Data, floats};
use crate::{all_kernels, check, everywhere, kernels};

const CODES: Format = Format::Int8(Group::Row);

/// Rows of numbers up to `scale`, each of another magnitude; the second one is zeros.
fn rows_of(view: View, rows: usize, scale: f32) -> Data {
    let mut data = Data::new(Batch::new(&[rows as u32]), u64::from(view.width) + rows as u64);
    data.matrix(Slot::X, view, rows, scale);
    let mut values = data.matrices[&Slot::X].clone();
    for (m, row) in values.chunks_exact_mut(view.stride as usize).take(rows).enumerate() {
        let (first, end) = (view.offset as usize, (view.offset + view.width) as usize);
        let factor = if m == 1 { 0.0 } else { 0.5f32.powi(m as i32 % 5) };
        row[first..end].iter_mut().for_each(|x| *x *= factor);
    }
    data.exactly(Slot::X, values);
    data
}

/// A scale is that of the format within rounding, a code the nearest whole number; nothing else is written.
fn quantized(view: View, rows: usize, scale: f32) {
    let data = rows_of(view, rows, scale);
    let (k, words) = (view.width as usize, View::of_codes(view.width));
    everywhere(|device, target| {
        for kernel in all_kernels(&Operation::Quantize { x: view, rows: Rows::Tokens }, target) {
            let found = gpu::run(device, &kernel, data.sizes(), |slot| match slot {
                Slot::Out => vec![0xab; rows.next_multiple_of(64) * words.stride as usize * 4],
                slot => data.bytes(slot),
            });
            let (written, untouched) = found.split_at(rows * words.stride as usize * 4);
            assert!(untouched.iter().all(|&byte| byte == 0xab), "{}: rows behind the last are written", kernel.name);
            for (m, row) in written.chunks_exact(words.stride as usize * 4).enumerate() {
                let x: Vec<f32> = (0..k).map(|n| data.at(Slot::X, view, m, n) as f32).collect();
                let at = CODES.code_bytes(k);
                let parameter = |row: &[u8]| f64::from(f32::from_le_bytes(row[at..at + 4].try_into().unwrap()));
                let (own, wanted) = (parameter(row), parameter(&CODES.pack(&x, k).unwrap()));
                // A division is exact to 2.5 units in the last place.
                assert!(
                    (own / wanted - 1.0).abs() < 4e-7,
                    "{}: row {m} has the scale {own}, not {wanted}",
                    kernel.name
                );
                for (n, &x) in x.iter().enumerate() {
                    let (code, exact) = (f64::from(row[n] as i8), (f64::from(x) / own).clamp(-127.0, 127.0));
                    let off = (code - exact).abs();
                    assert!(off <= 0.5 + 127.0 * 4e-7, "{}: [{m}, {n}] is {code}, not {exact}", kernel.name);
                }
                let rest = [&row[k..at], &row[at + 4..]].concat();
                assert!(rest.iter().all(|&byte| byte == 0), "{}: what pads row {m} is not zero", kernel.name);
            }
        }
    });
}

#[test]
fn rows_become_codes() {
    for (width, rows) in [(1, 1), (60, 66), (1030, 2)] {
        quantized(View::whole(width), rows, 1.0);
    }
    quantized(View { width: 61, stride: 96, offset: 5, image: false }, 4, 1.0);
    for scale in [3.4e38, 1e-34] {
        quantized(View::whole(60), 3, scale);
    }
}

/// Numbers up to `scale` as rows of codes, in a matrix of what they stand for.
fn codes(data: &mut Data, values: &[f32], k: usize) {
    let stride = View::of_codes(k as u32).stride as usize * 4;
    let mut stored = Vec::new();
    let mut meant = Vec::new();
    for row in values.chunks_exact(k) {
        let mut packed = CODES.pack(row, k).unwrap();
        meant.extend(CODES.unpack(&packed, k));
        meant.resize(meant.len().next_multiple_of(View::whole(k as u32).stride as usize), 0.0);
        packed.resize(stride, 0);
        stored.extend(packed);
    }
    let rows = values.len() / k;
    // What stands behind the last row is anything.
    stored.resize(rows.next_multiple_of(64) * stride, 0x77);
    data.exactly(Slot::X, floats(&stored));
    data.matrices.insert(Slot::X, meant);
}

struct Case {
    k: u32,
    n: u32,
    rows: u32,
    format: Format,
    paired: bool,
    term: Term,
    operands: Vec<Operand>,
    out: View,
    scale: f32,
}

impl Case {
    fn new(k: u32, n: u32, rows: u32, format: Format) -> Case {
        let (out, term) = (View::whole(n), Term::Acc);
        Case { k, n, rows, format, paired: false, term, operands: Vec::new(), out, scale: 1.0 }
    }

    fn operation(&self) -> Operation {
        let Case { k, n, format, paired, out, .. } = *self;
        let (term, operands) = (self.term.clone(), self.operands.clone());
        let linear =
            Operation::Linear { x: View::whole(k), n, format, paired, term, operands, out, rows: Rows::Tokens };
        Operation::IntegerLinear(Box::new(linear))
    }

    fn run(self) {
        let Case { k, n, rows, .. } = self;
        let (k, n, rows, view) = (k as usize, n as usize, rows as usize, View::whole(k));
        let mut data = Data::new(Batch::new(&[rows as u32]), (n * 31 + rows) as u64);
        let mut values = data::Random::new(k as u64).numbers(rows * k, self.scale);
        if rows > 1 {
            values[k..2 * k].fill(0.0);
        }
        codes(&mut data, &values, k);
        let slots: &[Slot] = if self.paired { &[Slot::W, Slot::W2] } else { &[Slot::W] };
        for &slot in slots {
            data.weight(slot, n, k, self.format, 1.0);
        }
        data.operands(&self.operands, n, rows, 1.0);
        let expected = |m: usize, column: usize| {
            let dot = |slot| {
                (0..k).fold((0.0, 0.0), |(sum, size), i| {
                    let product = data.at(Slot::X, view, m, i) * data.weight_at(slot, k, column, i);
                    (sum + product, size + product.abs())
                })
            };
            let (a, size) = dot(Slot::W);
            let (b, size2) = if self.paired { dot(Slot::W2) } else { (1.0, 1.0) };
            let value = data.term(&self.term, &self.operands, n, (m, column), [a, b]);
            // Sums over groups are exact; each is rounded, scaled and added.
            let rounding = (k as f64 / 16.0 + 8.0) * 0.5f64.powi(24) * (size + size2) * (1.0 + a.abs().min(b.abs()));
            (value, 1.2 * rounding + 2e-6 * (1e-6 * f64::from(self.scale) + value.abs()))
        };
        let expected: Vec<(f64, f64)> = (0..rows * n).map(|at| expected(at / n, at % n)).collect();
        let operation = self.operation();
        everywhere(|device, target| {
            for kernel in kernels(&operation, target) {
                check(device, &kernel, &data, (self.out, rows), |m, column| Some(expected[m * n + column]));
            }
        });
    }
}

/// Odd columns and rows, one row and many, groups that end behind the row, one group and several.
#[test]
fn products_of_codes() {
    let (row, group) = (CODES, |n| Format::Int8(Group::Of(n)));
    let cases =
        [(60, 37, 7, row), (384, 40, 33, row), (1, 4, 1, row), (200, 20, 3, group(32)), (77, 130, 65, group(48))];
    for (k, n, rows, format) in cases {
        Case::new(k, n, rows, format).run();
    }
    Case { scale: 1e30, ..Case::new(136, 12, 2, group(64)) }.run();
}

#[test]
fn products_of_codes_with_all_that_follows() {
    let (silu, acc2) = (Term::Unary(Unary::Silu, Box::new(Term::Acc)), Term::Acc2);
    let gate = Term::Binary(Binary::Mul, Box::new(silu), Box::new(acc2));
    Case { paired: true, term: gate, ..Case::new(72, 44, 5, CODES) }.run();
    let sum = |a, i| Term::Binary(Binary::Add, Box::new(a), Box::new(Term::Operand(i)));
    let operands = vec![Operand::Vector, Operand::Matrix(View { width: 30, stride: 64, offset: 5, image: false })];
    let term = sum(sum(Term::Acc, 0), 1);
    Case { term, operands, ..Case::new(136, 30, 19, Format::Int8(Group::Of(32))) }.run();
}

/// The longest row whose sum of products of the greatest codes fits 32 bits.
#[test]
fn the_greatest_sum_fits() {
    let (k, n) = (132_096usize, 4usize);
    let mut data = Data::new(Batch::new(&[1]), 1);
    codes(&mut data, &vec![1.0; k], k);
    let mut row = vec![0x80; k];
    row.extend(1f32.to_le_bytes());
    row.resize(CODES.row_bytes(k), 0);
    data.stored(Slot::W, &row.repeat(n), k, CODES);
    let case = Case::new(k as u32, n as u32, 1, CODES);
    let exact = -128.0 * k as f64;
    everywhere(|device, target| {
        for kernel in kernels(&case.operation(), target) {
            check(device, &kernel, &data, (View::whole(4), 1), |_, _| Some((exact, exact.abs() * 1e-6)));
        }
    });
    let target = Target::named("subgroup8").unwrap();
    let choices = |k, format| {
        let operation = Case::new(k, 4, 1, format).operation();
        candidates(&operation, target, RowRange { min: 1, max: None }).map(|all| all.len())
    };
    assert!(choices(132_097, Format::Int8(Group::Of(128))).unwrap() > 0);
    assert!(choices(132_097, CODES).is_err(), "its sum may not fit");
    assert!(choices(64, Format::Int8(Group::Of(24))).is_err(), "a group ends within a load");
    assert!(choices(64, Format::Fp8(Group::Row)).is_err());
}

#[test]
fn codes_become_numbers() {
    for (k, rows, scale) in [(61, 7, 1e30), (1030, 2, 1e-30)] {
        let mut data = Data::new(Batch::new(&[rows as u32]), k as u64);
        let values = data::Random::new(k as u64).numbers(rows * k, scale);
        codes(&mut data, &values, k);
        let view = View::whole(k as u32);
        let operation = Operation::Dequantize { width: k as u32, rows: Rows::Tokens };
        everywhere(|device, target| {
            for kernel in all_kernels(&operation, target) {
                check(device, &kernel, &data, (view, rows), |m, n| {
                    let value = data.at(Slot::X, view, m, n);
                    Some((value, value.abs() * 1e-7 + 1e-37))
                });
            }
        });
    }
}
