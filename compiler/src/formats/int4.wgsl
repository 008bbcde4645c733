// Four codes of four bits, one in each byte, as numbers from 0 to 15.
fn levels_int4(codes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(codes));
}

// The zero point of a word of parameters, in eighths beside the upper bits of the scale.
fn zero_int4(word: u32) -> f32 {
    return f32(word & 0xffu) * 0.125;
}

fn scale_int4(word: u32) -> f32 {
    return bitcast<f32>(word & 0xffffff00u);
}
