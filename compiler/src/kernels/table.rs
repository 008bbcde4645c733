//! Tables from which rows are gathered, and weights of which a kernel reads one row at a time.

use super::Slot;
use super::interface::Interface;
use crate::formats::{Format, Group, PANEL, PANEL_QUADS, WORD};

/// Binds a matrix of rows of `width` values and defines `load_name(…)`: four values of a row, decoded exactly as they are when they
/// are unpacked. `row` is an expression of the function's parameters, of which one is `n4`, the vec4 of columns.
pub(super) fn table(
    interface: &mut Interface,
    slot: Slot,
    name: &str,
    format: Format,
    width: u32,
    (parameters, row): (&str, &str),
) {
    interface.format(format);
    interface.bind_words(slot, name);
    let suffix = format.suffix();
    let [quad, codes] = [format.row_bytes(width as usize), format.code_bytes(width as usize)].map(|bytes| bytes / WORD);
    let at = |i: &str| format!("first + ({i}) * {PANEL_QUADS}u");
    let word = |i: &str| interface.word(name, &at(i), "row % 4u");
    let bytes = "vec4<u32>(0u, 8u, 16u, 24u)";
    let value = match format {
        Format::F32 => {
            let words = ["4u * n4", "4u * n4 + 1u", "4u * n4 + 2u", "4u * n4 + 3u"].map(word);
            format!("bitcast<vec4<f32>>(vec4<u32>({}))", words.join(", "))
        }
        Format::F16 | Format::Bf16 => {
            let words = ["2u * n4", "2u * n4", "2u * n4 + 1u", "2u * n4 + 1u"].map(word);
            let upper = "vec4<bool>(false, true, false, true)";
            format!("halves_{suffix}(vec4<u32>({}), {upper})", words.join(", "))
        }
        Format::Int8(_) | Format::Fp8(_) => format!("levels_{suffix}(vec4<u32>({}) >> {bytes})", word("n4")),
        Format::Int4 { .. } | Format::Mxfp4 | Format::Nf4(_) => {
            format!("levels_{suffix}(vec4<u32>({} >> (4u * (n4 % 2u))) >> {bytes})", word("n4 / 2u"))
        }
    };
    let group = match format.group() {
        Some(Group::Of(group)) => format!("4u * n4 / {group}u"),
        Some(Group::Row) | None => "0u".to_owned(),
    };
    let parameter = match format.parameter_bytes() {
        4 => format!("vec4<u32>({})", interface.word(name, &at(&format!("{codes}u + {group}")), "row % 4u")),
        _ => interface.word(name, &at(&format!("{codes}u + {group} / 4u")), &format!("{group} % 4u")),
    };
    let scaled = match format {
        Format::F32 | Format::F16 | Format::Bf16 => value,
        Format::Int4 { zeros: true, .. } => {
            format!("({value} - zero_int4(parameters)) * scale_int4(parameters)")
        }
        Format::Int4 { zeros: false, .. } => format!("({value} - 8.0) * bitcast<vec4<f32>>(parameters)"),
        Format::Mxfp4 => format!("{value} * scale_mxfp4(parameters)[row % 4u]"),
        Format::Int8(_) | Format::Fp8(_) | Format::Nf4(_) => format!("{value} * bitcast<vec4<f32>>(parameters)"),
    };
    let read = if format.is_quantized() { format!("    let parameters = {parameter};\n") } else { String::new() };
    interface.function(format!(
        "fn load_{name}({parameters}) -> vec4<f32> {{
    let row = {row};
    let first = row / {PANEL}u * {}u + row / 4u % {PANEL_QUADS}u;
{read}    return {scaled};
}}
",
        quad * PANEL_QUADS
    ));
}
