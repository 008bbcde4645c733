// Eight 16-bit floats, two in each u32, low half first.
alias PackedF16 = vec4<u32>;

// Four of them.
alias HalfF16 = vec2<u32>;

fn half_f16(p: HalfF16) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(p.x), unpack2x16float(p.y));
}

fn low_f16(p: PackedF16) -> vec4<f32> {
    return half_f16(p.xy);
}

fn high_f16(p: PackedF16) -> vec4<f32> {
    return half_f16(p.zw);
}
