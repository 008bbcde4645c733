//! What shaders unpack is, bit for bit, what Rust unpacks: every code point of every format.

use warpweft_compiler::formats::{Codes, Format, Group};
use warpweft_compiler::kernels::Slot;
use warpweft_compiler::kernels::spec::{Index, Operand, Operation, Rows, Term, View};
use warpweft_tests::gpu;

use crate::data::{self, Batch, Data, UNTOUCHED, floats};
use crate::{everywhere, kernels};

/// Rows of a table as a kernel gathers them, against [`Format::unpack`].
fn gathered(format: Format, packed: Vec<u8>, width: u32) {
    let mut data = Data::new(Batch::new(&[50]), 3);
    let rows = packed.len() / format.row_bytes(width as usize);
    data.stored(Slot::Operand(0), &packed, width as usize, format);
    let table = Operand::Gather { format, first: 0, rows: rows as u32, index: Index::Ids };
    let operation = Operation::Map { width, term: Term::Operand(0), operands: vec![table], rows: Rows::Tokens };
    everywhere(|device, target| {
        for kernel in kernels(&operation, target) {
            let out = View::whole(width);
            let result = floats(&gpu::run(device, &kernel, data.sizes(), |slot| match slot {
                Slot::Out => data::bytes(&vec![UNTOUCHED; 64 * out.stride as usize], f32::to_le_bytes),
                slot => data.bytes(slot),
            }));
            let mut seen = vec![false; rows];
            for (m, &id) in data.batch.ids.iter().enumerate().filter(|(_, id)| (**id as usize) < rows) {
                seen[id as usize] = true;
                for n in 0..width as usize {
                    let expected = data.matrices[&Slot::Operand(0)][id as usize * width as usize + n];
                    let found = result[m * out.stride as usize + n];
                    assert!(
                        found.to_bits() == expected.to_bits(),
                        "{format} on {}: row {id}, column {n} is {found:e}, not {expected:e}\n{}",
                        target.name,
                        kernel.wgsl
                    );
                }
            }
            assert!(seen.iter().all(|seen| *seen), "rows that no id asks for");
        }
    });
}

/// Each code in each of the columns that a shader unpacks together, with scales from the least to the greatest.
#[test]
fn every_code_point() {
    for format in Format::QUANTIZED {
        let all: Vec<u8> = if format.bits() == 8 { (0..=255).collect() } else { (0..=15).collect() };
        // NaNs are never stored.
        let all: Vec<u8> =
            all.into_iter().filter(|code| !matches!(format, Format::Fp8(_)) || code & 0x7f != 0x7f).collect();
        let width = 8 * all.len() + 24;
        let exponents = [-126, -60, -3, 0, 5, 60, 100];
        let rows = exponents.len();
        let mut codes = Vec::new();
        for row in 0..rows {
            codes.extend((0..width).map(|i| all[(i + i / all.len() + row) % all.len()]));
        }
        let groups = format.groups(width);
        let mantissa = if format == Format::Mxfp4 { 1.0 } else { 1.328_125 };
        let scales: Vec<f32> = exponents
            .iter()
            .flat_map(|&e| (0..groups).map(move |g| mantissa * 2f32.powi(e + (g % 3) as i32)))
            .collect();
        // The last group of a row is cut by its end.
        let zero = |i: usize| if (i + 1).is_multiple_of(groups) { (i % 16) as f32 } else { (i % 128) as f32 / 8.0 };
        let zeros: Vec<f32> = (0..rows * groups).map(zero).collect();
        let zeros = matches!(format, Format::Int4 { zeros: true, .. }).then_some(zeros.as_slice());
        let packed = format.assemble(&Codes { codes: &codes, scales: &scales, zeros }, width).unwrap();
        gathered(format, packed, width as u32);
    }
}

/// Rows of odd lengths and groups that do not divide them, as values are rounded.
#[test]
fn rounded_rows() {
    let odd = [8, 24, 56].map(|n| Format::Int4 { group: Group::Of(n), zeros: true });
    for format in Format::FLOATS.into_iter().chain(Format::QUANTIZED).chain(odd) {
        for width in [1, 7, 33, 200] {
            let values: Vec<f32> = (0..11 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-2).collect();
            gathered(format, format.pack(&values, width).unwrap(), width as u32);
        }
    }
}
