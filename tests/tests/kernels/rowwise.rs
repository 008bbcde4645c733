//! Normalise, map, pool.

use warpweft_compiler::formats::Format;
use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Binary, Index, Norm, Operand, Operation, Pool, Rows, Term, Unary, View};

use crate::data::{Batch, Data};
use crate::{all_kernels, check, everywhere, kernels};

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
    let operation = Operation::Normalize { norm, eps, width, input, term, operands: operands.clone(), rows };
    everywhere(|device, target| {
        for kernel in all_kernels(&operation, target) {
            check(device, &kernel, &data, (View::whole(width), count), |m, n| {
                data.kept(&operands, m).then(|| expected[m][n])
            });
        }
    });
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
    let wide = Operand::Matrix(View { width: 30, stride: 64, offset: 7 });
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
            let odd = View { width, stride: (width + 20).next_multiple_of(8), offset: 9 };
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
        for x in [View::whole(60), View { width: 15, stride: 40, offset: 10 }] {
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
