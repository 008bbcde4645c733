// x·Φ(x) = x/2 · (1 + erf(x/√2)); erf as an odd rational function on [-4, 4], where it reaches ±1 in f32.
// Absolute error of erf below 3e-7.
fn gelu(x: vec4<f32>) -> vec4<f32> {
    let a = clamp(x * 0.70710678f, vec4<f32>(-4.0), vec4<f32>(4.0));
    let b = a * a;
    var p = vec4<f32>(-2.72614225801306e-10f);
    p = fma(p, b, vec4<f32>(2.77068142495902e-08f));
    p = fma(p, b, vec4<f32>(-2.10102402082508e-06f));
    p = fma(p, b, vec4<f32>(-5.69250639462346e-05f));
    p = fma(p, b, vec4<f32>(-7.34990630326855e-04f));
    p = fma(p, b, vec4<f32>(-2.95459980854025e-03f));
    p = fma(p, b, vec4<f32>(-1.60960333262415e-02f));
    var q = vec4<f32>(-1.45660718464996e-05f);
    q = fma(q, b, vec4<f32>(-2.13374055278905e-04f));
    q = fma(q, b, vec4<f32>(-1.68282697438203e-03f));
    q = fma(q, b, vec4<f32>(-7.37332916720468e-03f));
    q = fma(q, b, vec4<f32>(-1.42647390514189e-02f));
    return 0.5f * x * (1.0f + clamp(a * p / q, vec4<f32>(-1.0), vec4<f32>(1.0)));
}
