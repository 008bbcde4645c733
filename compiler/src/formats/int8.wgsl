// Four signed bytes as numbers.
fn levels_int8(codes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(codes));
}

// The same times 2²⁴: what stands in the upper byte of a word has its sign there.
fn raised_int8(codes: u32) -> vec4<f32> {
    let upper = vec4<u32>(codes << 24u, codes << 16u, codes << 8u, codes) & vec4<u32>(0xff000000u);
    return vec4<f32>(bitcast<vec4<i32>>(upper));
}
