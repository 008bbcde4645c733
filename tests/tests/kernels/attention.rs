//! Attention: ragged batches, masks, grouped heads, odd head sizes.

use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Attention, Binary, Operation, Term, Unary, View};

use crate::data::{Batch, Data};
use crate::{all_kernels, check, everywhere, kernels};

struct Case {
    dim: u32,
    heads: u32,
    kv_heads: u32,
    lengths: Vec<u32>,
    before: Option<u32>,
    after: Option<u32>,
    /// q, k and v are windows of one matrix.
    merged: bool,
    scale: f32,
    every_tile: bool,
    cap: Option<f32>,
}

impl Case {
    fn new(dim: u32, lengths: &[u32]) -> Case {
        Case {
            dim,
            heads: 4,
            kv_heads: 4,
            lengths: lengths.to_vec(),
            before: None,
            after: None,
            merged: true,
            scale: 1.0,
            every_tile: false,
            cap: None,
        }
    }

    fn term(&self) -> Term {
        let binary = |operator, a, b| Term::Binary(operator, Box::new(a), Box::new(b));
        let scale = self.scale / (self.dim as f32).sqrt();
        let mut term = binary(Binary::Mul, Term::Acc, Term::Constant(scale));
        if let Some(cap) = self.cap {
            let small = binary(Binary::Div, term, Term::Constant(cap));
            term = binary(Binary::Mul, Term::Unary(Unary::Tanh, Box::new(small)), Term::Constant(cap));
        }
        let mask = Term::BandMask { before: self.before, after: self.after };
        binary(Binary::Add, term, mask)
    }

    fn run(self) {
        let (heads, kv_heads, dim) = (self.heads, self.kv_heads, self.dim);
        let group = (heads / kv_heads) as usize;
        let mut data = Data::new(Batch::new(&self.lengths), u64::from(dim * 7 + heads));
        let tokens = data.batch.tokens();
        let (wide, narrow) = (heads * dim, kv_heads * dim);
        let stride = (wide + 2 * narrow).next_multiple_of(8);
        let window = |width, offset| View { width, stride, offset, image: false };
        let (q, k, v) = match self.merged {
            true => (window(wide, 0), window(narrow, wide), window(narrow, wide + narrow)),
            false => (View::whole(wide), View::whole(narrow), View::whole(narrow)),
        };
        if self.merged {
            data.matrix(Slot::Q, View::whole(wide + 2 * narrow), tokens, 2.0);
            for slot in [Slot::K, Slot::V] {
                let values = data.matrices[&Slot::Q].clone();
                data.exactly(slot, values);
            }
        } else {
            for (slot, view) in [(Slot::Q, q), (Slot::K, k), (Slot::V, v)] {
                data.matrix(slot, view, tokens, 2.0);
            }
        }
        let (term, every_tile) = (self.term(), self.every_tile);
        let (d, u) = (dim as usize, 0.5f64.powi(24));
        let mut expected = vec![(0.0, 0.0); tokens * wide as usize];
        for m in 0..tokens {
            let [position, first, rows, _] = data.batch.rows[m].map(i64::from);
            let seen: Vec<usize> = (0..rows)
                .filter(|j| self.before.is_none_or(|b| position - j <= i64::from(b)))
                .filter(|j| self.after.is_none_or(|a| j - position <= i64::from(a)))
                .map(|j| (first + j) as usize)
                .collect();
            for head in 0..heads as usize {
                let mut size = 0f64;
                let logits: Vec<f64> = seen
                    .iter()
                    .map(|&j| {
                        let products = (0..d).map(|i| {
                            data.at(Slot::Q, q, m, head * d + i) * data.at(Slot::K, k, j, head / group * d + i)
                        });
                        let (sum, all) = products.fold((0.0, 0.0), |(s, a), p: f64| (s + p, a + p.abs()));
                        size = size.max(all);
                        data.term(&term, &[], 0, (m, 0), [sum, 0.0])
                    })
                    .collect();
                let top = logits.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                // A score off by e changes a weight by a factor of exp(e); exp itself is good to 2^-20.
                let scaled = f64::from(self.scale) / (d as f64).sqrt();
                let score_error = (d as f64 + 8.0) * u * size * scaled + 8.0 * u * top.abs();
                let error = 2.0 * score_error + 0.5f64.powi(19);
                for i in 0..d {
                    let values: Vec<f64> = seen.iter().map(|&j| data.at(Slot::V, v, j, head / group * d + i)).collect();
                    let value = weights.iter().zip(&values).map(|(w, v)| w * v).sum::<f64>() / total;
                    let size = weights.iter().zip(&values).map(|(w, v)| w * v.abs()).sum::<f64>() / total;
                    expected[(m * heads as usize + head) * d + i] = (value, 2.0 * error * size + 1e-6);
                }
            }
        }
        let max_context = self.lengths.iter().max().copied().unwrap();
        let operation = Operation::Attention(Attention { q, k, v, heads, kv_heads, term, max_context, image: false });
        everywhere(|device, target| {
            let compose = if every_tile { all_kernels } else { kernels };
            for kernel in compose(&operation, target) {
                check(device, &kernel, &data, (View::whole(wide), tokens), |m, n| {
                    Some(expected[m * wide as usize + n])
                });
            }
        });
    }
}

#[test]
fn sequences_of_mixed_lengths() {
    Case::new(32, &[37]).run();
    Case::new(32, &[1]).run();
    Case::new(32, &[1, 1, 1, 5, 1, 64, 2, 33]).run();
    Case { merged: false, ..Case::new(16, &[3, 70, 1]) }.run();
}

#[test]
fn odd_head_sizes() {
    for dim in [15, 18, 20, 36, 128] {
        Case { heads: 2, kv_heads: 2, ..Case::new(dim, &[9, 30]) }.run();
    }
    Case { heads: 2, kv_heads: 1, ..Case::new(256, &[11]) }.run();
}

#[test]
fn grouped_heads() {
    Case { heads: 6, kv_heads: 2, ..Case::new(20, &[21, 4]) }.run();
    Case { heads: 3, kv_heads: 1, merged: false, ..Case::new(15, &[21, 4]) }.run();
}

#[test]
fn masks() {
    for (before, after) in
        [(None, Some(0)), (Some(3), Some(3)), (Some(0), Some(0)), (Some(16), Some(0)), (Some(5), None)]
    {
        Case { before, after, ..Case::new(16, &[50, 1, 100]) }.run();
    }
}

#[test]
fn extreme_scores_and_soft_caps() {
    Case { scale: 300.0, ..Case::new(32, &[40, 7]) }.run();
    Case { scale: 1e-4, ..Case::new(32, &[40, 7]) }.run();
    Case { scale: 50.0, cap: Some(5.0), after: Some(0), ..Case::new(16, &[40, 7]) }.run();
}

#[test]
fn every_tile() {
    Case { every_tile: true, heads: 2, kv_heads: 1, before: Some(9), ..Case::new(12, &[40, 3, 1]) }.run();
}
