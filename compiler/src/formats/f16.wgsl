// 16-bit floats, two in each u32: the lower ones of four words, and the upper ones.
fn low_f16(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(
        unpack2x16float(words.x).x, unpack2x16float(words.y).x, unpack2x16float(words.z).x, unpack2x16float(words.w).x
    );
}

fn high_f16(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(
        unpack2x16float(words.x).y, unpack2x16float(words.y).y, unpack2x16float(words.z).y, unpack2x16float(words.w).y
    );
}

fn halves_f16(words: vec4<u32>, upper: vec4<bool>) -> vec4<f32> {
    return select(low_f16(words), high_f16(words), upper);
}
