// Eight 16-bit floats, two in each u32, low half first.
alias PackedF16 = vec4<u32>;

fn low_f16(p: PackedF16) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(p.x), unpack2x16float(p.y));
}

fn high_f16(p: PackedF16) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(p.z), unpack2x16float(p.w));
}
