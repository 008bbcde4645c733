// Eight upper halves of 32-bit floats, two in each u32, low half first.
alias PackedBf16 = vec4<u32>;

// Four of them.
alias HalfBf16 = vec2<u32>;

fn half_bf16(p: HalfBf16) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(p.x << 16u, p.x & 0xffff0000u, p.y << 16u, p.y & 0xffff0000u));
}

fn low_bf16(p: PackedBf16) -> vec4<f32> {
    return half_bf16(p.xy);
}

fn high_bf16(p: PackedBf16) -> vec4<f32> {
    return half_bf16(p.zw);
}
