#![allow(clippy::unwrap_used)]
use super::*;

fn all() -> Vec<Format> {
    Format::FLOATS.into_iter().chain(Format::QUANTIZED).collect()
}

/// Values that look random, of magnitude 1 about.
fn noise(n: usize) -> Vec<f32> {
    (0..n as u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).powi(3) * 2.0)
        .collect()
}

/// Codes that are numbers.
fn numbers(format: Format) -> Vec<u8> {
    let codes = if format.bits() == 8 { 0..=255 } else { 0..=15 };
    codes.filter(|&code| format.level(code).unwrap().is_finite()).collect()
}

/// The magnitude of a value's rounding, over its group's greatest magnitude (of int4, over the span of its values).
fn greatest_error(format: Format) -> f32 {
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => 0.0,
        Format::Int8(_) => 0.5 / 127.0,
        // The zero point is rounded too: half a step is clipped.
        Format::Int4 { zeros: true, .. } => 1.0 / 15.0,
        Format::Int4 { zeros: false, .. } => 0.5 / 7.0,
        Format::Fp8(_) => 16.0 / 448.0,
        // Half of the gap between 4 and 6, or 6 to 8, which are clipped, over at least 4.
        Format::Mxfp4 => 2.0 / 8.0,
        Format::Nf4(_) => 0.5 * (1.0 - 0.696),
    }
}

#[test]
fn floats_pack_and_unpack_within_their_precision() {
    let values: Vec<f32> = (0..3 * 15).map(|i| (i as f32 - 20.0) * 1.37e-1).collect();
    for (format, bits) in [(Format::F32, 24), (Format::F16, 11), (Format::Bf16, 8)] {
        let bytes = format.pack(&values, 15).unwrap();
        assert_eq!(bytes.len(), 3 * 16 * format.bytes() as usize);
        assert_eq!(format.row_bytes(15), 16 * format.bytes() as usize);
        for (a, b) in values.iter().zip(format.unpack(&bytes, 15)) {
            assert!((a - b).abs() <= a.abs() * 0.5f32.powi(bits), "{format} {a} {b}");
        }
        let again = format.pack(&format.unpack(&bytes, 15), 15).unwrap();
        assert_eq!(again, bytes, "stored values survive");
    }
}

#[test]
fn refuses_what_does_not_fit() {
    for format in all() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = format.pack(&[1.0, bad], 1).unwrap_err();
            assert!(matches!(error, FormatError::OutOfRange { row: 1, column: 0, .. }), "{error}");
        }
        assert!(matches!(format.pack(&[1.0], 2), Err(FormatError::Shape { .. })));
        assert!(matches!(format.pack(&[], 0), Err(FormatError::Shape { .. })));
    }
    assert!(Format::F16.pack(&[65504.0, 65519.9], 1).is_ok());
    assert!(Format::F16.pack(&[65520.0], 1).is_err());
    assert!(Format::Bf16.pack(&[f32::MAX], 1).is_err(), "rounds to infinity");
    assert!(Format::Bf16.pack(&[3.38e38], 1).is_ok());
    assert!(Format::F32.pack(&[f32::MAX], 1).is_ok());
    for n in [0, 4, 12] {
        assert!(matches!(Format::Int8(Group::Of(n)).pack(&[1.0], 1), Err(FormatError::Group { .. })));
    }
}

#[test]
fn names_are_read_back() {
    for format in all() {
        assert_eq!(format.name().parse(), Ok(format));
    }
    assert_eq!("int4-g32-sym".parse(), Ok(Format::Int4 { group: Group::Of(32), zeros: false }));
    assert_eq!("fp8-g128".parse(), Ok(Format::Fp8(Group::Of(128))));
    for bad in ["", "int4", "int5", "int8-row", "int8-g", "int8-g12", "int8-g0", "int4-g32-asym", "mxfp4-g32", "f16-g8"]
    {
        let error = bad.parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("mxfp4") && error.contains(&format!("{bad:?}")), "{error}");
    }
}

#[test]
fn every_code_point_survives() {
    for format in Format::QUANTIZED {
        let codes = numbers(format);
        let width = codes.len();
        let groups = format.groups(width);
        for exponent in [-100, -20, 0, 3, 90] {
            let scales: Vec<f32> = (0..groups).map(|g| 2f32.powi(exponent + g as i32 % 5)).collect();
            let scales: Vec<f32> = match format {
                Format::Mxfp4 => scales,
                _ => scales.iter().map(|s| s * 1.328125).collect(),
            };
            let zeros: Vec<f32> = (0..groups).map(|g| g as f32 + 5.0).collect();
            let zeros = matches!(format, Format::Int4 { zeros: true, .. }).then_some(zeros);
            let stored = StoredCodes { codes: codes.clone(), scales: scales.clone(), zeros: zeros.clone() };
            let given = Codes { codes: &codes, scales: &scales, zeros: zeros.as_deref() };
            let bytes = format.assemble(&given, width).unwrap();
            assert_eq!(bytes.len(), format.row_bytes(width), "{format}");
            assert_eq!(format.codes(&bytes, width), stored, "{format}");
            for (column, value) in format.unpack(&bytes, width).into_iter().enumerate() {
                let group = column / format.group_width(width);
                let zero = zeros.as_ref().map_or(format.common_zero(), |z| z[group]);
                let fit = GroupFit { scale: scales[group], zero };
                let level = format.level(codes[column]).unwrap();
                assert_eq!(value, (level - zero) * scales[group], "{format} {column}");
                // The nearest code of a code's value is that code, or one that stands for the same number.
                let least = if matches!(format, Format::Int8(_)) { -127.0 } else { f32::NEG_INFINITY };
                assert_eq!(format.round(value, fit).1, value.max(least * fit.scale), "{format} {column}");
            }
        }
    }
}

#[test]
fn codes_stand_for_the_published_numbers() {
    let level = |format: Format, code| format.level(code).unwrap();
    let fp8 = Format::Fp8(Group::Row);
    for (code, value) in [
        (0x00, 0.0),
        (0x01, 2f32.powi(-9)),
        (0x07, 7.0 * 2f32.powi(-9)),
        (0x08, 2f32.powi(-6)),
        (0x38, 1.0),
        (0x7e, 448.0),
    ] {
        assert_eq!([level(fp8, code), level(fp8, code | 0x80)], [value, -value]);
    }
    assert!(level(fp8, 0x7f).is_nan() && level(fp8, 0xff).is_nan());
    let mxfp4: Vec<f32> = (0..16).map(|code| level(Format::Mxfp4, code)).collect();
    assert_eq!(mxfp4[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    assert_eq!(mxfp4[8..], [-0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]);
    assert_eq!([level(Format::Int8(Group::Row), 0x80), level(Format::Int8(Group::Row), 0x7f)], [-128.0, 127.0]);
    let nf4: Vec<f32> = (0..16).map(|code| level(Format::Nf4(Group::Row), code)).collect();
    assert!(nf4.is_sorted() && nf4[0] == -1.0 && nf4[7] == 0.0 && nf4[15] == 1.0);
}

#[test]
fn rounds_to_the_nearest_level() {
    for format in Format::QUANTIZED {
        let fit = GroupFit { scale: 1.0, zero: format.common_zero() };
        let mut levels: Vec<f32> = numbers(format).iter().map(|&c| format.level(c).unwrap() - fit.zero).collect();
        // What rounding gives: all but the -128 of int8.
        levels.retain(|level| !matches!(format, Format::Int8(_)) || *level != -128.0);
        let most = levels.iter().fold(0.0, |m: f32, l| m.max(l.abs()));
        for i in -1000..=1000 {
            let x = i as f32 / 1000.0 * most * 1.2;
            let nearest = levels.iter().map(|l| (l - x).abs()).fold(f32::INFINITY, f32::min);
            let (code, value) = format.round(x, fit);
            assert_eq!((value - x).abs(), nearest, "{format}: {x} became {value}");
            assert_eq!(format.level(code).unwrap() - fit.zero, value);
        }
        for x in [f32::MAX, f32::MIN, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1e-42, 0.0, -0.0] {
            let value = format.round(x, fit).1;
            assert!(value.is_finite() && (value - x).abs() <= x.abs(), "{format}: {x} became {value}");
        }
    }
}

/// Of two levels that are equally near, the even code.
#[test]
fn ties_go_to_even_codes() {
    let round = |format: Format, x: f32| format.round(x, GroupFit { scale: 1.0, zero: format.common_zero() }).1;
    assert_eq!([2.5, 3.5, -0.5].map(|x| round(Format::Int8(Group::Row), x)), [2.0, 4.0, 0.0]);
    assert_eq!(
        [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -5.0].map(|x| round(Format::Mxfp4, x)),
        [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -4.0]
    );
    let fp8 = Format::Fp8(Group::Row);
    assert_eq!(
        [17.0, 19.0, 2f32.powi(-10), 3.0 * 2f32.powi(-10)].map(|x| round(fp8, x)),
        [16.0, 20.0, 0.0, 2f32.powi(-8)]
    );
    // From the greatest subnormal to the least normal number.
    assert_eq!(round(fp8, 7.5 * 2f32.powi(-9)), 2f32.powi(-6));
}

#[test]
fn rows_of_odd_lengths_and_groups_that_do_not_divide_them() {
    for format in Format::QUANTIZED {
        for width in [1, 7, 8, 31, 32, 33, 100, 129, 200] {
            let values = noise(3 * width);
            let bytes = format.pack(&values, width).unwrap();
            assert_eq!(bytes.len(), 3 * format.row_bytes(width));
            assert_eq!(format.row_bytes(width) % layout::LOAD, 0);
            let back = format.unpack(&bytes, width);
            assert_eq!(back.len(), values.len());
            for (row, (values, back)) in values.chunks(width).zip(back.chunks(width)).enumerate() {
                let group = format.group_width(width);
                for (values, back) in values.chunks(group).zip(back.chunks(group)) {
                    let span = match format {
                        Format::Int4 { zeros: true, .. } => {
                            values.iter().copied().fold(0.0, f32::max) - values.iter().copied().fold(0.0, f32::min)
                        }
                        _ => values.iter().map(|v| v.abs()).fold(0.0, f32::max),
                    };
                    for (value, back) in values.iter().zip(back) {
                        let error = (value - back).abs() / span;
                        assert!(error <= greatest_error(format) * 1.001, "{format} {width} {row}: {value} {back}");
                    }
                }
            }
            // What was stored is stored the same, also taken apart and put together.
            let StoredCodes { codes, scales, zeros } = format.codes(&bytes, width);
            assert_eq!((codes.len(), scales.len()), (3 * width, 3 * format.groups(width)));
            let again = Codes { codes: &codes, scales: &scales, zeros: zeros.as_deref() };
            assert_eq!(format.assemble(&again, width).unwrap(), bytes, "{format} {width}");
            // A row is stored alike wherever it stands.
            assert_eq!(
                format.pack(&values[width..2 * width], width).unwrap(),
                bytes[format.row_bytes(width)..][..format.row_bytes(width)]
            );
        }
    }
}

#[test]
fn zeros_stay_zeros() {
    for format in Format::QUANTIZED {
        let mut values = noise(3 * 96);
        values[32..128].fill(0.0);
        values[200] = -0.0;
        let back = format.unpack(&format.pack(&values, 96).unwrap(), 96);
        for (value, back) in values.iter().zip(&back) {
            assert!(*value != 0.0 || *back == 0.0, "{format}: 0 became {back}");
        }
        assert!(format.unpack(&format.pack(&[0.0; 64], 64).unwrap(), 64).iter().all(|v| *v == 0.0));
        // A group of zeros has a scale with which an error that is fed back can be rounded.
        assert_eq!(format.fit(&[0.0; 8], None).scale, 1.0);
    }
}

/// A row of as many columns as are stored, group after group, goes on with zeros.
#[test]
fn zeros_stand_behind_the_end_of_a_row() {
    for format in Format::QUANTIZED {
        for width in [1, 7, 8, 40, 100, 129] {
            let bytes = format.pack(&noise(width), width).unwrap();
            let columns = format.code_bytes(width) * 8 / format.bits() as usize;
            for column in width..columns {
                let group = column / format.group_width(width);
                let group = if matches!(format.group(), Some(Group::Row)) { 0 } else { group };
                let fit = format.parameters(group, &bytes[format.code_bytes(width)..]);
                let level = format.level(format.code(&bytes, column)).unwrap();
                assert_eq!(fit.value(level), 0.0, "{format}: column {column} behind {width}");
            }
        }
    }
}

#[test]
fn extreme_magnitudes_stay_finite_and_near() {
    for format in Format::QUANTIZED {
        for most in [f32::MAX, 1e38, 1e-30, 1e-37, f32::MIN_POSITIVE, 1e-40, 1e-45] {
            let values: Vec<f32> = [1.0, -1.0, 0.5, -0.25, 0.0, 0.9, -0.9, 0.1].map(|x: f32| x * most).to_vec();
            let back = format.unpack(&format.pack(&values, 8).unwrap(), 8);
            for (value, back) in values.iter().zip(&back) {
                let error = (value / 4.0 - back / 4.0).abs() * 4.0;
                // Scales are normal numbers, so that nothing is lost where subnormals are taken for zeros.
                let allowed = (greatest_error(format) * 2.0 * most).max(f32::MIN_POSITIVE / 2.0);
                assert!(
                    back.is_finite() && error <= allowed * 1.001,
                    "{format} at {most:e}: {value:e} became {back:e}"
                );
            }
        }
    }
}

#[test]
fn refuses_codes_that_are_no_numbers_and_parameters_that_it_cannot_hold() {
    let int4 = Format::Int4 { group: Group::Of(8), zeros: true };
    let assemble = |format: Format, code: u8, scale: f32, zero: Option<f32>| {
        let (mut codes, mut scales) = (vec![0; 16], vec![1.0; format.groups(16)]);
        codes[9] = code;
        scales.iter_mut().skip(format.groups(16).saturating_sub(1)).for_each(|s| *s = scale);
        let zeros = zero.map(|zero| vec![zero; format.groups(16)]);
        format.assemble(&Codes { codes: &codes, scales: &scales, zeros: zeros.as_deref() }, 16)
    };
    for (format, code) in
        [(Format::Fp8(Group::Row), 0x7f), (Format::Fp8(Group::Row), 0xff), (int4, 16), (Format::Mxfp4, 16)]
    {
        let error = assemble(format, code, 1.0, None).unwrap_err();
        assert_eq!(error, FormatError::Code { code, row: 0, column: 9, format });
    }
    for (format, scale) in
        [(int4, 1.000_01), (int4, f32::NAN), (Format::Mxfp4, 3.0), (Format::Mxfp4, 0.0), (Format::Mxfp4, -1.0)]
    {
        let error = assemble(format, 1, scale, None).unwrap_err();
        assert!(matches!(error, FormatError::Parameter { what: "scale", .. }), "{error}");
    }
    assert!(assemble(Format::Mxfp4, 1, 2f32.powi(-127), None).is_ok());
    for (format, zero) in [(int4, 0.3), (int4, -1.0), (int4, 32.0), (Format::Int8(Group::Row), 1.0)] {
        let error = assemble(format, 1, 1.0, Some(zero)).unwrap_err();
        assert!(matches!(error, FormatError::Parameter { what: "zero point", .. }), "{error}");
    }
    // A group that the row's end cuts needs a code of zero behind it; one that ends there does not.
    let wide = Format::Int4 { group: Group::Of(32), zeros: true };
    assert!(assemble(wide, 1, 1.0, Some(3.125)).is_err() && assemble(wide, 1, 1.0, Some(16.0)).is_err());
    assert!(assemble(int4, 1, 1.0, Some(3.125)).is_ok() && assemble(wide, 1, 1.0, Some(15.0)).is_ok());
    // Powers and scales of half floats are held, also at the ends.
    for scale in [65504.0, 2f32.powi(-24), 3.0 * 2f32.powi(-24), half::bf16::MAX.to_f32() / 32.0] {
        assert!(assemble(int4, 15, scale, Some(4.0)).is_ok(), "{scale}");
    }
    assert!(matches!(assemble(Format::Int8(Group::Row), 100, 1e37, None), Err(FormatError::OutOfRange { .. })));
    assert!(matches!(assemble(Format::F16, 0, 1.0, None), Err(FormatError::Unquantized { .. })));
    let short = Codes { codes: &[0; 16], scales: &[1.0], zeros: None };
    assert!(matches!(int4.assemble(&short, 16), Err(FormatError::Parameters { expected: 2, .. })));
    assert!(matches!(int4.assemble(&short, 0), Err(FormatError::Shape { .. })));
}

#[test]
fn a_weighted_fit_is_no_worse_and_lets_what_does_not_matter_be_clipped() {
    for format in Format::QUANTIZED {
        let mut values = noise(32);
        values[3] = 5.0;
        let mut weights = vec![1.0; 32];
        weights[3] = 0.0;
        let error = |fit: GroupFit| -> f64 {
            let off = |(v, w): (&f32, &f32)| f64::from((v - format.round(*v, fit).1).powi(2) * w);
            values.iter().zip(&weights).map(off).sum()
        };
        let fit = format.fit(&values, Some(&weights));
        assert!(format.holds_scale(fit.scale) && format.holds_zero(fit.zero), "{format} {fit:?}");
        assert!(error(fit) <= error(format.fit(&values, None)), "{format}");
        if matches!(format, Format::Int4 { .. }) {
            assert!(error(fit) < error(format.fit(&values, None)), "{format}");
        }
    }
}

/// Each byte of a stored row stands where the layout of panels says.
#[test]
fn panels_have_the_bytes_of_their_rows() {
    for format in all() {
        for width in [1, 7, 40, 200, 1030] {
            let values: Vec<f32> = (0..70 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-2).collect();
            let rows = format.pack(&values, width).unwrap();
            let (row_bytes, codes, each) =
                (format.row_bytes(width), format.code_bytes(width), format.parameter_bytes());
            for count in [0, 1, 4, 7, 32, 70] {
                let arranged = format.arrange(&rows[..count * row_bytes], width);
                assert_eq!(arranged.len(), count.next_multiple_of(PANEL) * row_bytes, "{format} {width}");
                let mut back = vec![0; arranged.len()];
                for (at, byte) in back.iter_mut().enumerate() {
                    let (row, at) = (at / row_bytes, at % row_bytes);
                    // Where the piece that the byte is of stands in its quad.
                    let of_quad = |at: usize, piece: usize| (at / piece * 4 + row % 4) * piece + at % piece;
                    let within = match at.checked_sub(codes) {
                        None => of_quad(at, 4),
                        Some(at) if at < format.groups(width) * each => 4 * codes + of_quad(at, each),
                        Some(_) => continue,
                    };
                    let within = (within / 16 * 8 + row % PANEL / 4) * 16 + within % 16;
                    *byte = arranged[row / PANEL * PANEL * row_bytes + within];
                }
                let (stored, zeros) = back.split_at(count * row_bytes);
                assert!(stored == &rows[..count * row_bytes], "{format} {width}, {count} rows");
                assert!(zeros.iter().all(|byte| *byte == 0), "{format} {width}, {count} rows");
            }
        }
    }
}
