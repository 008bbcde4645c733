// Four codes of four bits, the lowest of four words, as numbers from 0 to 15.
fn levels_int4(codes: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(codes & vec4<u32>(0xfu));
}

// Code `at` of the eight of each of four words where it stands: times 1, 2⁸, 2¹⁶ and 2²⁴, in the upper halves of bytes times 2⁴,
// 2¹², 2²⁰ and 2²⁴. The highest is shifted, because it has no sign.
fn raised_int4(words: vec4<u32>, at: u32) -> vec4<f32> {
    let bits = select(words, words >> vec4<u32>(4u), at == 7u);
    let mask = select(0xfu << (8u * (at % 4u) + 4u * (at / 4u)), 0x0f000000u, at == 7u);
    return vec4<f32>(bitcast<vec4<i32>>(bits & vec4<u32>(mask)));
}

// The zero points of words of parameters, in eighths beside the upper bits of the scales.
fn zero_int4(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(words & vec4<u32>(0xffu)) * 0.125;
}

fn scale_int4(words: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(words & vec4<u32>(0xffffff00u));
}
