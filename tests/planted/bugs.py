"""Bugs that look like good numerics: one replacement each, in the sources of muster-numerics. What is replaced occurs once.

Each is a mistake that a port or an optimisation would make. The tests must notice every one; `run.py` sees to it.
"""

BUGS = [
    # 1 and 2: rules of every expression
    ("a chain keeps its -0, AVX2", "kernel/gemm/tile.rs", "_mm256_add_ps(acc[0], zero)", "acc[0]"),
    ("a chain keeps its -0, portable", "kernel/gemm/tile.rs", "        *x += 0.0;\n", "        let _ = x;\n"),
    ("a row sum keeps its -0", "kernel/reduction.rs", "    a[0] + 0.0\n", "    a[0]\n"),
    ("lanes are added in neighbours", "kernel/reduction.rs", "a[l] += a[l + s];", "a[l] = a[2 * l] + a[2 * l + 1];"),
    ("16 lanes", "kernel/reduction.rs", "pub(crate) const LANES: usize = 32;", "pub(crate) const LANES: usize = 16;"),
    ("blocks of 32 rows", "kernel/reduction.rs", "pub(crate) const BLOCK: usize = 64;", "pub(crate) const BLOCK: usize = 32;"),
    (
        "a sum instead of a tree",
        "kernel/reduction.rs",
        "        v = v.chunks(2).map(|pair| if let [a, b] = pair { a + b } else { pair[0] }).collect();",
        "        v = vec![v.iter().sum::<f32>()];",
    ),
    ("fma rounds twice where it is emulated", "isa.rs", "let step = ((err.to_bits() as i64 ^ bits) >> 63) | 1;", "let step = 0;"),
    ("subnormals are flushed in worker threads", "float.rs", "const MXCSR_DEFAULT: u32 = 0x1f80;", "const MXCSR_DEFAULT: u32 = 0x9fc0;"),
    # 3: functions
    ("exp does not clamp above", "math.rs", "    let x = if x > 89.0 { 89.0 } else { x };\n", ""),
    ("exp does not clamp below", "math.rs", "    let x = if x < -104.0 { -104.0 } else { x };\n", ""),
    ("exp adds its 1 too early", "math.rs", "A::fma(p, r * r, r) + 1.0;", "A::fma(p, r * r, r + 1.0);"),
    ("exp scales in one step", "math.rs", "    let n1 = n >> 1;\n", "    let n1 = n.clamp(-126, 127);\n"),
    ("log adds e ln 2 in one part", "math.rs", "    let y = A::fma(e, -f(0x395e8083), y);\n", ""),
    # 4: ops
    ("gelu's cube is another product", "ops/gelu.rs", "A::fma(K1, x2, 1.0)\n", "A::fma(K1 * x, x, 1.0)\n"),
    ("gelu's slope forgets a factor", "ops/gelu.rs", "2.0 * du, s)", "du, s)"),
    ("layer norm multiplies in another order", "ops/layer_norm.rs", "A::fma((*x - mean) * rs, *w, *b)", "A::fma(*x - mean, rs * *w, *b)"),
    ("layer norm's eps is outside", "ops/layer_norm.rs", "1.0 / (variance + EPSILON).sqrt()", "1.0 / (variance.sqrt() + EPSILON)"),
    ("layer norm's gradient is not centred", "ops/layer_norm.rs", "A::fma(-n, b, dn - a) * rs", "A::fma(-n, b, dn) * rs"),
    ("rms norm's gradient has the other sign", "ops/rms_norm.rs", "A::fma(-n, b, dy[j] * weight[j]) * rs", "A::fma(n, b, dy[j] * weight[j]) * rs"),
    ("rotary turns back forwards", "ops/rotary.rs", "da[j] = A::fma(a[j], c, b[j] * s);", "da[j] = A::fma(a[j], c, -(b[j] * s));"),
    ("rotary's wavelengths are half as many", "ops/rotary.rs", "(2 * j) as f64 / (2 * half) as f64", "j as f64 / (2 * half) as f64"),
    ("rotary turns values, too", "ops/rotary.rs", "(self.heads + self.kv_heads) * 2 * half;", "(self.heads + 2 * self.kv_heads) * 2 * half;"),
    ("query head h reads keys h mod KV", "ops/attention/mod.rs", "let column = (self.kv * self.shape.group + h) * self.shape.head;", "let column = (h * self.shape.kv_heads + self.kv) * self.shape.head;"),
    ("scores are scaled by an f64 root", "ops/attention/mod.rs", "1.0 / (self.head as f32).sqrt()", "(1.0 / (self.head as f64).sqrt()) as f32"),
    ("probabilities are divided", "ops/attention/kernel.rs", "            let inv = 1.0 / sum::<A>(live);\n            for z in live.iter_mut() {\n                *z *= inv;", "            let inv = 1.0 / sum::<A>(live);\n            for z in live.iter_mut() {\n                *z /= 1.0 / inv;"),
    ("swiglu multiplies before it divides", "ops/swiglu.rs", "*h = (*g / (1.0 + exp::<A>(-*g))) * *u;", "*h = (*g * *u) / (1.0 + exp::<A>(-*g));"),
    ("swiglu's halves are exchanged", "ops/swiglu.rs", "            let (gate, up) = x.split_at(f);", "            let (up, gate) = x.split_at(f);"),
    ("token losses add the maximum back", "ops/cross_entropy.rs", "log::<A>(s) - (x[*target as usize] - m);", "(log::<A>(s) + m) - x[*target as usize];"),
    ("the mean loss multiplies", "exec/mod.rs", "&self.buffer[losses]) / rows.count() as f32;", "&self.buffer[losses]) * (1.0 / rows.count() as f32);"),
    ("tables add up from the last row", "ops/embedding.rs", "for (_, r) in users {", "for (_, r) in users.iter().rev() {"),
    # 2.4: exact products
    ("an exact line's scale is no f32", "kernel/exact/quantise.rs", "(m >> 23).max(14) as i32", "(m >> 23) as i32"),
    ("an exact line's largest does not fit", "kernel/exact/quantise.rs", "m & 0x007f_ffff > 0x007e_8000", "m & 0x007f_ffff > 0x007f_8000"),
    ("exact integers are cut, not rounded", "kernel/exact/quantise.rs", "    (sum.to_bits() as i16, sum - MAGIC)", "    let _ = sum;\n    (x as i16, x.trunc())"),
    ("an exact product adds its bias before it rounds", "kernel/exact/tile.rs", "            v[j] += bias[j];", "            v[j] = (sum[j] * (rows[i] * columns[j]) + f64::from(bias[j])) as f32;"),
    ("an exact product keeps its -0", "kernel/exact/tile.rs", "as f32 + 0.0;", "as f32;"),
    ("exact sums are carried too late", "kernel/exact/operand.rs", "const ROOM: f32 = 4.6e18;", "const ROOM: f32 = 4.6e19;"),
    ("exact sums are carried without their sign", "kernel/exact/tile.rs", "let upper = _mm256_srai_epi32::<16>(sums[i][half]);", "let upper = std::arch::x86_64::_mm256_srli_epi32::<16>(sums[i][half]);"),
    ("the bound of exact columns forgets odd steps", "kernel/exact/quantise.rs", "sums[0][l] += even.1 * even.1 + odd.1 * odd.1;", "sums[0][l] += even.1 * even.1;"),
    ("the bound of exact rows forgets every other pair", "kernel/exact/quantise.rs", "let two: [f32; STEPS / 4] = halved(&pair);", "let two: [f32; STEPS / 4] = std::array::from_fn(|l| pair[2 * l]);"),
    # 5 to 7: the step's tail
    ("the mean divides by S", "reduce.rs", "        *x *= scale;", "        *x /= shards as f32;"),
    ("vectors decay", "ops/adamw.rs", "if tensor.decays() { moments.weight_decay } else { 0.0 }", "{ let _ = tensor.decays(); moments.weight_decay }"),
    ("the first moment rounds twice", "ops/adamw.rs", "A::fma(k.b1, m[i], k.a1 * g)", "k.b1 * m[i] + k.a1 * g"),
    ("the second moment squares first", "ops/adamw.rs", "(k.a2 * g) * g", "k.a2 * (g * g)"),
    ("adam's eps is under the root", "ops/adamw.rs", "((vi * k.c2).sqrt() + k.epsilon)", "(vi * k.c2 + k.epsilon).sqrt()"),
    ("clipping forgets its eps", "ops/clip.rs", "clip / (norm + TINY)", "clip / norm"),
    ("the norm's chunks are twice as long", "reduce.rs", "pub const CHUNK: usize = 4096;", "pub const CHUNK: usize = 8192;"),
    ("warm-up begins at 0", "schedule.rs", "((hi * t) / self.warmup) as f32", "((hi * (t - 1.0)) / self.warmup) as f32"),
    ("the schedule is computed in f32", "schedule.rs", "let (t, hi, lo) = (step as f64, self.peak, self.floor);", "let (t, hi, lo) = (step as f64, f64::from(self.peak as f32), self.floor);"),
    ("three rounds of shuffling", "order.rs", "for round in 0..4 {", "for round in 0..3 {"),
    ("what writes into the stream starts as large", "graph/gpt2.rs", "Init::Normal { divisor: 2 * model.layers }", "Init::Normal { divisor: 1 }"),
    ("a normal number is not centred", "philox.rs", "- 262_140", "- 262_141"),
    # 6.5
    ("a sample's loss is divided by the rows of the call", "exec/mod.rs", "losses) / context as f32;", "losses) / rows.count() as f32;"),
    ("an evaluation multiplies by 1/E", "ops/evaluate.rs", "kernel::tree(losses) / count", "kernel::tree(losses) * (1.0 / count)"),
    ("an evaluation may be NaN", "ops/evaluate.rs", "if mean.is_finite() { mean } else { f32::MAX }", "mean"),
    ("the last step evaluates only if it is a multiple", "spec/mod.rs", "step == self.steps || step.is_multiple_of(eval.every_steps)", "step.is_multiple_of(eval.every_steps)"),
]
