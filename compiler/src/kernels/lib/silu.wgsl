// x·σ(x)
fn silu(x: vec4<f32>) -> vec4<f32> {
    return x * sigmoid(x);
}
