// Four signed bytes, the lowest of four words, as numbers.
fn levels_int8(codes: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(codes << vec4<u32>(24u)) >> vec4<u32>(24u));
}

// Byte `at` of four words times 2²⁴: what stands in the upper byte of a word has its sign there.
fn raised_int8(words: vec4<u32>, at: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>((words << vec4<u32>(24u - 8u * at)) & vec4<u32>(0xff000000u)));
}
