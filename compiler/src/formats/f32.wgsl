// Eight 32-bit floats.
struct PackedF32 {
    low: vec4<f32>,
    high: vec4<f32>,
}

// Four of them.
alias HalfF32 = vec4<f32>;

fn half_f32(p: HalfF32) -> vec4<f32> {
    return p;
}

fn low_f32(p: PackedF32) -> vec4<f32> {
    return p.low;
}

fn high_f32(p: PackedF32) -> vec4<f32> {
    return p.high;
}
