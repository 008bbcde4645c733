//! Normalise, map, pool.

use warpweft_compiler::formats::Format;
use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{
    Binary, Index, Norm, Operand, Operation, Pool, RowNorm, Rows, Term, Unary, View,
};
use warpweft_tests::gpu;

use crate::data::{Batch, Data, UNTOUCHED, bytes, floats};
use crate::{all_kernels, check, compare, everywhere, kernels};

fn binary(operator: Binary, a: Term, b: Term) -> Term {
    Term::Binary(operator, Box::new(a), Box::new(b))
}

fn normalize(norm: Norm, width: u32, lengths: &[u32], rows: Rows, operands: Vec<Operand>, scale: f32, shift: f32) {
    let mut data = Data::new(Batch::new(lengths), u64::from(width));
    let count = match rows {
        Rows::Tokens => data.batch.tokens(),
        Rows::Sequences => lengths.len(),
    };
    data.operands(&operands, width as usize, count, scale);
    // The sum of all operands but the last two, shifted; then gain and bias.
    let inputs = operands.len() - 2;
    let sum = (1..inputs).fold(Term::Operand(0), |sum, i| binary(Binary::Add, sum, Term::Operand(i)));
    let input = binary(Binary::Add, sum, Term::Constant(shift));
    let term = binary(Binary::Mul, Term::Acc, Term::Operand(inputs));
    let term = binary(Binary::Add, term, Term::Operand(inputs + 1));
    let (eps, w) = (1e-5f32, width as usize);
    let expected: Vec<Vec<(f64, f64)>> = (0..count)
        .map(|m| {
            let x: Vec<f64> = (0..w).map(|n| data.term(&input, &operands, w, (m, n), [0.0; 2])).collect();
            let mean = x.iter().sum::<f64>() / w as f64;
            let squares = |c: f64| x.iter().map(|v| (v - c) * (v - c)).sum::<f64>();
            let (center, divisor) = match norm {
                Norm::Layer => (mean, (squares(mean) / w as f64 + f64::from(eps)).sqrt()),
                Norm::Rms => (0.0, (squares(0.0) / w as f64 + f64::from(eps)).sqrt()),
                Norm::L2 => (0.0, squares(0.0).sqrt().max(f64::from(eps))),
            };
            let largest = x.iter().fold(0f64, |a, v| a.max(v.abs()));
            // The input and the mean are rounded; what is lost is as large beside the deviation as it is.
            let error = (32.0 * 0.5f64.powi(24) * largest / divisor + 2e-6) * (1.0 + f64::from(scale));
            (0..w)
                .map(|n| {
                    let acc = (x[n] - center) / divisor;
                    (data.term(&term, &operands, w, (m, n), [acc, 0.0]), error * (1.0 + acc.abs()))
                })
                .collect()
        })
        .collect();
    let operation = Operation::Normalize {
        norm,
        eps,
        width,
        input,
        term,
        then: None,
        operands: operands.clone(),
        rows,
        image: false,
    };
    everywhere(|device, target| {
        for kernel in all_kernels(&operation, target) {
            check(device, &kernel, &data, (View::whole(width), count), |m, n| {
                data.kept(&operands, m).then(|| expected[m][n])
            });
        }
    });
}

/// A norm of operand 1 times a gain, added to operand 0, and a norm of that sum times another gain: both are results.
fn normalize_twice(norms: [Norm; 2], width: u32, [residual, x]: [Operand; 2]) {
    let w = width as usize;
    let operands = vec![residual, x, Operand::Vector, Operand::Vector];
    let mut data = Data::new(Batch::new(&[5, 2]), u64::from(width));
    let count = data.batch.tokens();
    data.operands(&operands, w, count, 1.0);
    let gained = |gain| binary(Binary::Mul, Term::Acc, Term::Operand(gain));
    let term = binary(Binary::Add, Term::Operand(0), gained(2));
    let eps = 1e-5f32;
    let divisor = |norm: Norm, x: &[f64]| {
        let squares = x.iter().map(|v| v * v).sum::<f64>();
        match norm {
            Norm::Layer | Norm::Rms => (squares / w as f64 + f64::from(eps)).sqrt(),
            Norm::L2 => squares.sqrt().max(f64::from(eps)),
        }
    };
    // Values and how far they may be off, of both results.
    let expected: Vec<[Vec<(f64, f64)>; 2]> = (0..count)
        .map(|m| {
            let x: Vec<f64> = (0..w).map(|n| data.term(&Term::Operand(1), &operands, w, (m, n), [0.0; 2])).collect();
            let mean = if norms[0] == Norm::Layer { x.iter().sum::<f64>() / w as f64 } else { 0.0 };
            let x: Vec<f64> = x.iter().map(|v| v - mean).collect();
            let by = divisor(norms[0], &x);
            let largest = x.iter().fold(mean.abs(), |a, v| a.max(v.abs()));
            let error = (32.0 * 0.5f64.powi(24) * largest / by + 2e-6) * 2.0;
            let sums: Vec<f64> = (0..w).map(|n| data.term(&term, &operands, w, (m, n), [x[n] / by, 0.0])).collect();
            let again = divisor(norms[1], &sums);
            let first = (0..w).map(|n| (sums[n], error * (1.0 + (x[n] / by).abs()))).collect::<Vec<_>>();
            let most = first.iter().fold(0.0, |a: f64, (_, error)| a.max(*error));
            let second = |n: usize| {
                let acc = sums[n] / again;
                (
                    data.term(&gained(3), &operands, w, (m, n), [acc, 0.0]),
                    (2.0 * most / again + 4e-6) * (1.0 + acc.abs()),
                )
            };
            let second = (0..w).map(second).collect();
            [first, second]
        })
        .collect();
    let then = Some(RowNorm { norm: norms[1], eps, term: gained(3) });
    let (norm, input, rows) = (norms[0], Term::Operand(1), Rows::Tokens);
    let operation =
        Operation::Normalize { norm, eps, width, input, term, then, operands: operands.clone(), rows, image: false };
    let view = View::whole(width);
    let capacity = count.next_multiple_of(64) * view.stride as usize;
    everywhere(|device, target| {
        for kernel in all_kernels(&operation, target) {
            let outputs = gpu::run_all(device, &kernel, data.sizes(), |slot| match slot {
                Slot::Out => data.result(capacity),
                Slot::Part(1) => {
                    let mut values = vec![UNTOUCHED; capacity];
                    if x == Operand::Next {
                        let rows = count * view.stride as usize;
                        values[..rows].copy_from_slice(&data.matrices[&Slot::Operand(1)][..rows]);
                    }
                    bytes(&values, f32::to_le_bytes)
                }
                slot => data.bytes(slot),
            });
            assert_eq!(outputs.len(), 2, "{}", kernel.name);
            for (part, output) in outputs.iter().enumerate() {
                compare(&kernel, &floats(output), (view, count), |m, n| Some(expected[m][part][n]));
            }
        }
    });
}

#[test]
fn norms_of_norms() {
    for norms in [[Norm::Rms, Norm::Rms], [Norm::Layer, Norm::L2], [Norm::L2, Norm::Rms]] {
        for width in [384, 60, 15, 1, 1000, 8190] {
            let whole = Operand::Matrix(View::whole(width));
            for rows in [[whole, whole], [Operand::Result, whole], [Operand::Result, Operand::Next]] {
                normalize_twice(norms, width, rows);
            }
        }
    }
}

fn table(format: Format, first: u32, rows: u32, index: Index) -> Operand {
    Operand::Gather { format, first, rows, index }
}

#[test]
fn norms_of_odd_widths() {
    for norm in [Norm::Layer, Norm::Rms, Norm::L2] {
        for width in [384, 60, 15, 1, 4, 1000, 8190] {
            let whole = Operand::Matrix(View::whole(width));
            normalize(norm, width, &[7], Rows::Tokens, vec![whole, Operand::Vector, Operand::Vector], 1.0, 0.0);
        }
    }
    let wide = Operand::Matrix(View { width: 30, stride: 64, offset: 7, image: false });
    let operands = vec![wide, Operand::Matrix(View::whole(30)), Operand::Vector, Operand::Vector];
    normalize(Norm::Layer, 30, &[3, 4, 1], Rows::Sequences, operands, 1.0, 0.0);
}

/// Rows that the result is written over, alone and beside others.
#[test]
fn norms_are_written_over_what_they_read() {
    for norm in [Norm::Layer, Norm::Rms, Norm::L2] {
        for width in [384, 60, 15, 1000, 8190] {
            let whole = Operand::Matrix(View::whole(width));
            let vectors = [Operand::Vector, Operand::Vector];
            for rows in [vec![Operand::Result], vec![whole, Operand::Result]] {
                normalize(norm, width, &[7], Rows::Tokens, [&rows[..], &vectors].concat(), 1.0, 0.0);
            }
        }
    }
}

#[test]
fn norms_of_extreme_rows() {
    for (scale, shift) in [(1.0, 1000.0), (1e-4, 0.0), (1e4, 0.0)] {
        for norm in [Norm::Layer, Norm::Rms, Norm::L2] {
            for width in [72, 1000] {
                let operands = vec![Operand::Matrix(View::whole(width)), Operand::Vector, Operand::Vector];
                normalize(norm, width, &[5], Rows::Tokens, operands, scale, shift);
            }
        }
    }
}

#[test]
fn embeddings() {
    for format in Format::FLOATS {
        let operands = vec![
            table(format, 0, 50, Index::Ids),
            table(Format::F32, 0, 40, Index::Positions),
            Operand::Vector,
            Operand::Vector,
            Operand::Vector,
        ];
        normalize(Norm::Layer, 60, &[37, 2], Rows::Tokens, operands, 1.0, 0.0);
    }
    // A window of the table: rows whose index is outside are left alone.
    let operands = vec![table(Format::F16, 13, 21, Index::Ids), Operand::Vector, Operand::Vector];
    normalize(Norm::Layer, 20, &[37, 2], Rows::Tokens, operands, 1.0, 0.0);
}

#[test]
fn maps() {
    for (width, rows) in [(13, Rows::Tokens), (300, Rows::Tokens), (8, Rows::Sequences)] {
        let over = (rows == Rows::Tokens).then_some(Operand::Result);
        for other in [Operand::Matrix(View::whole(width))].into_iter().chain(over) {
            let mut data = Data::new(Batch::new(&[5, 3, 1]), 5);
            let count = if rows == Rows::Tokens { 9 } else { 3 };
            let odd = View { width, stride: (width + 20).next_multiple_of(8), offset: 9, image: false };
            let operands = vec![Operand::Matrix(odd), other, Operand::Vector];
            data.operands(&operands, width as usize, count, 3.0);
            let gated = binary(Binary::Mul, Term::Unary(Unary::Gelu, Box::new(Term::Operand(0))), Term::Operand(1));
            let term = binary(Binary::Sub, gated, Term::Operand(2));
            let operation = Operation::Map { width, term: term.clone(), operands: operands.clone(), rows };
            everywhere(|device, target| {
                for kernel in kernels(&operation, target) {
                    check(device, &kernel, &data, (View::whole(width), count), |m, n| {
                        Some((data.term(&term, &operands, width as usize, (m, n), [0.0; 2]), 5e-6))
                    });
                }
            });
        }
    }
}

#[test]
fn pools() {
    for pool in [Pool::Mean, Pool::First, Pool::Max, Pool::Last] {
        for x in [View::whole(60), View { width: 15, stride: 40, offset: 10, image: false }] {
            let mut data = Data::new(Batch::new(&[1, 37, 300, 2]), 11);
            let tokens = data.batch.tokens();
            data.matrix(Slot::X, x, tokens, 1.0);
            let operation = Operation::Pool { pool, x, max_context: 512 };
            everywhere(|device, target| {
                for kernel in kernels(&operation, target) {
                    check(device, &kernel, &data, (View::whole(x.width), 4), |s, n| {
                        let rows = (0..tokens).filter(|&m| data.batch.rows[m][3] as usize == s);
                        let values: Vec<f64> = rows.map(|m| data.at(Slot::X, x, m, n)).collect();
                        let value = match pool {
                            Pool::Mean => values.iter().sum::<f64>() / values.len() as f64,
                            Pool::First => values[0],
                            Pool::Last => values[values.len() - 1],
                            Pool::Max => values.iter().copied().fold(f64::MIN, f64::max),
                        };
                        Some((value, 2e-6))
                    });
                }
            });
        }
    }
}
