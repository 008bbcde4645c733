// Four 4-bit floats (e2m1), one in each byte. Twice their magnitudes, 0 1 2 3 4 6 8 12, are the digits of a number.
fn levels_mxfp4(codes: u32) -> vec4<f32> {
    let bits = unpack4xU8(codes);
    let twice = (vec4<u32>(0xc8643210u) >> ((bits & vec4<u32>(7u)) << vec4<u32>(2u))) & vec4<u32>(15u);
    let a = vec4<f32>(twice) * 0.5;
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(a) | ((bits & vec4<u32>(8u)) << vec4<u32>(28u)));
}

// A power of two, byte `at` of a word; 2⁻¹²⁷ is the only one that is subnormal.
fn scale_mxfp4(word: u32, at: u32) -> f32 {
    let exponent = (word >> (8u * at)) & 0xffu;
    return bitcast<f32>(select(exponent << 23u, 0x00400000u, exponent == 0u));
}
