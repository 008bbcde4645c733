//! Columns in another order.

use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Operation, Rows, View};

use crate::data::{Batch, Data};
use crate::{all_kernels, check, everywhere};

/// `x`'s columns in the order of `index`; numbers that are no columns are clamped.
fn run(x: View, index: &[f32], rows: usize) {
    let width = index.len() as u32;
    let mut data = Data::new(Batch::new(&[rows as u32]), u64::from(x.width + width));
    // Exact: values are moved.
    data.matrix(Slot::X, x, rows, 1e30);
    let mut padded = index.to_vec();
    padded.resize(index.len().next_multiple_of(8), 0.0);
    data.exactly(Slot::Vectors, padded);
    let column = |n: usize| (index[n].max(0.0) as usize).min(x.width as usize - 1);
    let operation = Operation::Columns { x, width, rows: Rows::Tokens };
    everywhere(|device, target| {
        for kernel in all_kernels(&operation, target) {
            let expected = |m: usize, n: usize| Some((data.at(Slot::X, x, m, column(n)), 1e-30));
            check(device, &kernel, &data, (View::whole(width), rows), expected);
        }
    });
}

/// A permutation.
fn stride(columns: u32, step: u32) -> Vec<f32> {
    (0..columns).map(|n| ((n * step) % columns) as f32).collect()
}

#[test]
fn permutations_of_odd_widths() {
    for (columns, step, rows) in [(1, 1, 1), (5, 2, 3), (64, 27, 1), (176, 35, 9), (301, 7, 70), (1030, 411, 2)] {
        run(View::whole(columns), &stride(columns, step), rows);
    }
}

#[test]
fn columns_of_a_window_some_of_them_twice() {
    let index: Vec<f32> = (0..77).map(|n| (n * n % 36) as f32).collect();
    for offset in [0, 5, 8] {
        run(View { width: 36, stride: 64, offset, image: false }, &index, 6);
    }
}

#[test]
fn columns_that_are_not_there() {
    let index = [0.0, -1.0, -0.0, 12.0, 13.0, 1e30, f32::INFINITY, f32::NEG_INFINITY, 3.7, 1e-40];
    run(View::whole(13), &index, 4);
}
