//! Contractions of each head with its own rows of a weight.

use warpweft_compiler::formats::Format;
use warpweft_compiler::kernels::spec::{Operation, Rows, View};
use warpweft_compiler::kernels::{RowRange, Slot, lower};
use warpweft_compiler::target::Target;

use crate::data::{Batch, Data};
use crate::{all_kernels, check, everywhere};

fn run(x: View, heads: u32, n: u32, format: Format, rows: usize) {
    let (k, columns) = ((x.width / heads) as usize, (heads * n) as usize);
    let mut data = Data::new(Batch::new(&[rows as u32]), u64::from(n * 7 + heads));
    data.matrix(Slot::X, x, rows, 1.0);
    data.weight(Slot::W, columns, k, format, 1.0);
    let expected = |m: usize, column: usize| {
        let head = column / n as usize;
        let (sum, size) = (0..k).fold((0.0, 0.0), |(sum, size), i| {
            let product = data.at(Slot::X, x, m, head * k + i) * data.weight_at(Slot::W, k, column, i);
            (sum + product, size + product.abs())
        });
        (sum, 1.2 * (k as f64 + 8.0) * 0.5f64.powi(24) * size + 1e-6)
    };
    let operation = Operation::PerHead { x, heads, n, format, rows: Rows::Tokens };
    everywhere(|device, target| {
        for kernel in all_kernels(&operation, target) {
            check(device, &kernel, &data, (View::whole(heads * n), rows), |m, n| Some(expected(m, n)));
        }
    });
}

#[test]
fn heads_of_odd_widths() {
    for (heads, k, n, rows) in [(16, 16, 32, 1), (3, 12, 7, 5), (1, 4, 1, 1), (5, 36, 3, 70), (2, 128, 64, 9)] {
        run(View::whole(heads * k), heads, n, Format::F32, rows);
    }
}

#[test]
fn heads_in_windows_and_formats() {
    for (format, offset) in [(Format::F16, 0), (Format::Bf16, 8), (Format::F32, 5)] {
        run(View { width: 36, stride: 64, offset, image: false }, 3, 10, format, 6);
    }
}

#[test]
fn heads_of_quantized_weights() {
    for format in Format::QUANTIZED {
        run(View::whole(3 * 36), 3, 10, format, 6);
        run(View::whole(2 * 128), 2, 5, format, 1);
    }
}

#[test]
fn heads_that_are_no_fours_have_no_kernel() {
    let x = View::whole(15);
    let operation = Operation::PerHead { x, heads: 3, n: 4, format: Format::F32, rows: Rows::Tokens };
    let error = lower(&operation, &Target::all()[0], RowRange { min: 1, max: None }).unwrap_err().to_string();
    assert!(error.contains("3 heads of 15 columns"), "{error}");
}
