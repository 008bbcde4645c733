// Thirty-two codes of four bits: four of them, 0 to 15. A word holds four columns in the low halves of its bytes and the
// next four in the high halves.
fn levels_int4(packed: vec4<u32>, h: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(packed[h / 2u] >> (4u * (h % 2u)) & 0x0f0f0f0fu));
}

// The zero point of a word of parameters, in eighths beside the upper bits of the scale.
fn zero_int4(word: u32) -> f32 {
    return f32(word & 0xffu) * 0.125;
}

fn scale_int4(word: u32) -> f32 {
    return bitcast<f32>(word & 0xffffff00u);
}
