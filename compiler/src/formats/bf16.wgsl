// Upper halves of 32-bit floats, two in each u32: the lower ones of four words, and the upper ones.
fn low_bf16(words: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(words << vec4<u32>(16u));
}

fn high_bf16(words: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(words & vec4<u32>(0xffff0000u));
}

fn halves_bf16(words: vec4<u32>, upper: vec4<bool>) -> vec4<f32> {
    return select(low_bf16(words), high_bf16(words), upper);
}
