// Four 4-bit floats (e2m1), the lowest bits of four words. Twice their magnitudes, 0 1 2 3 4 6 8 12, are the digits of a number.
fn levels_mxfp4(codes: vec4<u32>) -> vec4<f32> {
    let twice = (vec4<u32>(0xc8643210u) >> ((codes & vec4<u32>(7u)) << vec4<u32>(2u))) & vec4<u32>(15u);
    let a = vec4<f32>(twice) * 0.5;
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(a) | ((codes & vec4<u32>(8u)) << vec4<u32>(28u)));
}

// Powers of two, the bytes of a word; 2⁻¹²⁷ is the only one that is subnormal.
fn scale_mxfp4(word: u32) -> vec4<f32> {
    let exponents = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
    return bitcast<vec4<f32>>(select(exponents << vec4<u32>(23u), vec4<u32>(0x00400000u), exponents == vec4<u32>(0u)));
}
