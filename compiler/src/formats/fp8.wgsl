// Four 8-bit floats (e4m3fn), the lowest bytes of four words. NaNs are not stored.
//
// Of a normal number the exponent is moved from its bias of 7 to 127. Of a subnormal number that would stand for
// 2⁻⁷·(1 + m/8), so one is added to the exponent, which gives 2⁻⁶·(1 + m/8), and 2⁻⁶ is subtracted: exact, and without
// numbers that are subnormal as f32, which a device may take for zero.
fn levels_fp8(codes: vec4<u32>) -> vec4<f32> {
    let magnitude = (codes & vec4<u32>(0x7fu)) << vec4<u32>(20u);
    let normal = bitcast<vec4<f32>>(magnitude + (120u << 23u));
    let subnormal = bitcast<vec4<f32>>(magnitude + (121u << 23u)) - 0.015625;
    let a = select(normal, subnormal, magnitude < vec4<u32>(1u << 23u));
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(a) | ((codes & vec4<u32>(0x80u)) << vec4<u32>(24u)));
}
