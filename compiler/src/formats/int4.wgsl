// Four codes of four bits, one in each byte, as numbers from 0 to 15.
fn levels_int4(codes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(codes));
}

// The same where they stand in a word of eight: times 1, 2⁸, 2¹⁶ and 2²⁴, in the upper halves of bytes times 2⁴, 2¹², 2²⁰ and
// 2²⁴. The highest is shifted, because it has no sign.
fn raised_int4(word: u32, upper: bool) -> vec4<f32> {
    let lower = vec4<u32>(word) & vec4<u32>(0xfu, 0xf00u, 0xf0000u, 0xf000000u);
    let other = vec4<u32>(word, word, word, word >> 4u) & vec4<u32>(0xf0u, 0xf000u, 0xf00000u, 0xf000000u);
    return vec4<f32>(bitcast<vec4<i32>>(select(lower, other, upper)));
}

// The zero point of a word of parameters, in eighths beside the upper bits of the scale.
fn zero_int4(word: u32) -> f32 {
    return f32(word & 0xffu) * 0.125;
}

fn scale_int4(word: u32) -> f32 {
    return bitcast<f32>(word & 0xffffff00u);
}
