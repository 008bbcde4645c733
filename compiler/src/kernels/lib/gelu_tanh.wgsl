// x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))); beyond ±10 the second factor is 2 or 0.
fn gelu_tanh(x: vec4<f32>) -> vec4<f32> {
    let a = clamp(x, vec4<f32>(-10.0), vec4<f32>(10.0));
    return 0.5f * x * (1.0f + safe_tanh(0.79788456f * a * fma(vec4<f32>(0.044715f), a * a, vec4<f32>(1.0))));
}
