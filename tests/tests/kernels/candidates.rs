//! The greatest values of rows.

use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::candidates::{groups_view, is_chunked};
use warpweft_compiler::kernels::spec::{Operation, Rows, View};
use warpweft_tests::gpu;

use crate::data::{Batch, Data, Random, UNTOUCHED, bytes, floats};
use crate::{everywhere, kernels};

fn run(rows: Vec<Vec<f32>>, n: u32) {
    let width = rows[0].len() as u32;
    let x = View { width, stride: (width + 3).next_multiple_of(8), offset: 3, image: false };
    let mut data = Data::new(Batch::new(&vec![1; rows.len()]), 1);
    let mut values = vec![9.9e9; rows.len().next_multiple_of(64) * x.stride as usize];
    for (m, row) in rows.iter().enumerate() {
        values[m * x.stride as usize + 3..][..row.len()].copy_from_slice(row);
    }
    data.exactly(Slot::X, values);
    let chunks = Operation::CandidateChunks { x, rows: Rows::Sequences };
    let greatest = Operation::Candidates { x, n, rows: Rows::Sequences };
    let (between, out) = (groups_view(width), View::whole(1 + 2 * n));
    let fresh = |view: View| bytes(&vec![UNTOUCHED; rows.len() * view.stride as usize], f32::to_le_bytes);
    everywhere(|device, target| {
        let parts = is_chunked(width).then(|| {
            let [first] = &kernels(&chunks, target)[..] else { panic!("one kernel") };
            gpu::run(device, first, data.sizes(), |slot| match slot {
                Slot::Out => fresh(between),
                slot => data.bytes(slot),
            })
        });
        let [second] = &kernels(&greatest, target)[..] else { panic!("one kernel") };
        let found = floats(&gpu::run(device, second, data.sizes(), |slot| match slot {
            Slot::Out => fresh(out),
            Slot::Operand(0) => parts.clone().unwrap(),
            slot => data.bytes(slot),
        }));
        for (m, row) in rows.iter().enumerate() {
            let found = &found[m * out.stride as usize..][..1 + 2 * n as usize];
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            for (i, &column) in order[..n as usize].iter().enumerate() {
                assert_eq!(found[1 + i].to_bits(), row[column].to_bits(), "row {m}, value {i} on {}", target.name);
                assert_eq!(found[1 + n as usize + i], column as f32, "row {m}, column {i} on {}", target.name);
            }
            let top = f64::from(row[order[0]]);
            if top.is_finite() {
                let sum: f64 = row.iter().map(|&v| (f64::from(v) - top).exp()).sum();
                let error = (f64::from(found[0]) - (top + sum.ln())).abs();
                assert!(error <= 2e-5 + 1e-6 * top.abs(), "row {m}: {} not {}", found[0], top + sum.ln());
            }
        }
    });
}

#[test]
fn ordinary_rows() {
    for (width, n) in [(509, 256), (20, 20), (1, 1), (4099, 256), (8192, 7), (8193, 256), (40000, 256)] {
        let mut random = Random::new(u64::try_from(width).unwrap());
        run((0..3).map(|_| random.numbers(width as usize, 15.0)).collect(), n);
    }
}

#[test]
fn the_largest_vocabulary() {
    run(vec![Random::new(7).numbers(262_144, 20.0)], 256);
}

#[test]
fn ties_and_extremes() {
    for width in [300, 8000, 20_000] {
        let row = |value: &dyn Fn(usize) -> f32| (0..width).map(value).collect::<Vec<f32>>();
        let rows = vec![
            row(&|_| 1.5),
            row(&|i| (i % 7) as f32),
            row(&|i| if i % 5000 == 77 { 3e38 } else { -3e38 }),
            row(&|i| if i > width - 100 { 1.0 } else { f32::NEG_INFINITY }),
            row(&|_| f32::NEG_INFINITY),
            row(&|i| if i % 2 == 0 { 0.0 } else { -0.0 }),
            row(&|i| -1e-30 * (i as f32)),
        ];
        run(rows, 256);
    }
}
