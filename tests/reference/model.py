"""Section 4 of docs/spec/numerics.md in NumPy: the ops, forward and backward, and the two models."""

from types import SimpleNamespace

import numpy as np

from arithmetic import F, bits, chain, cols, dot, exact, exp, exp64, fma, inv, ln64, log, rows, sincos64

EPS = bits(0x3727C5AC)


def tensors(spec):
    """4.9 and 4.14: (name, shape, rule, divisor) in canonical order."""
    m = SimpleNamespace(**spec["model"])
    d, v, deep = m.width, m.vocabulary, 2 * m.layers
    untied = [("head.weight", (v, d), "normal", 1)] if m.tiedEmbeddings == "Untied" else []
    if m.architecture == "llama":
        head = d // m.heads
        qkv, f = (m.heads + 2 * m.llama["kvHeads"]) * head, m.llama["mlpWidth"]
        of_layer = [
            ("attn_norm.weight", (d,), "ones", 1),
            ("attn.qkv.weight", (qkv, d), "normal", 1),
            ("attn.o.weight", (d, d), "normal", deep),
            ("mlp_norm.weight", (d,), "ones", 1),
            ("mlp.gate_up.weight", (2 * f, d), "normal", 1),
            ("mlp.down.weight", (d, f), "normal", deep),
        ]
        first, last, prefix = [("embed.weight", (v, d), "normal", 1)], [("norm.weight", (d,), "ones", 1)], "layers"
    else:
        of_layer = [
            ("ln_1.weight", (d,), "ones", 1),
            ("ln_1.bias", (d,), "zeros", 1),
            ("attn.qkv.weight", (3 * d, d), "normal", 1),
            ("attn.qkv.bias", (3 * d,), "zeros", 1),
            ("attn.proj.weight", (d, d), "normal", deep),
            ("attn.proj.bias", (d,), "zeros", 1),
            ("ln_2.weight", (d,), "ones", 1),
            ("ln_2.bias", (d,), "zeros", 1),
            ("mlp.fc.weight", (4 * d, d), "normal", 1),
            ("mlp.fc.bias", (4 * d,), "zeros", 1),
            ("mlp.proj.weight", (d, 4 * d), "normal", deep),
            ("mlp.proj.bias", (d,), "zeros", 1),
        ]
        first = [("wte", (v, d), "normal", 1), ("wpe", (m.context, d), "normal", 1)]
        last, prefix = [("ln_f.weight", (d,), "ones", 1), ("ln_f.bias", (d,), "zeros", 1)], "h"
    layers = [(f"{prefix}.{layer}.{name}", *rest) for layer in range(m.layers) for name, *rest in of_layer]
    return [*first, *layers, *last, *untied]


class Shard:
    """Loss and gradient of one shard. Each op leaves what its backward does on a list, which is walked from its end."""

    def __init__(self, spec, weights, tokens, targets):
        self.m = SimpleNamespace(**spec["model"])
        self.w, self.tokens, self.targets = weights, tokens.ravel(), targets.ravel()
        self.length = tokens.shape[1]
        self.mm = exact if spec["training"]["arithmetic"] == "i16-exact" else chain
        self.grads, self.tape = {}, []

    def forward(self):
        """The shard's loss, and the gradient of the logits."""
        return self.cross_entropy(self.llama() if self.m.architecture == "llama" else self.gpt2())

    def run(self):
        """The shard's loss, and the gradients by name."""
        loss, d = self.forward()
        for backward in reversed(self.tape):
            d = backward(d)
        return loss, self.grads

    def give(self, name, g):
        """4.10: contributions in backward order."""
        self.grads[name] = self.grads[name] + g if name in self.grads else g

    def gpt2(self):
        x = self.embedding("wte", "wpe")
        for layer in range(self.m.layers):
            h = f"h.{layer}."
            x = self.residual(x, [
                lambda y: self.layer_norm(h + "ln_1", y),
                lambda y: self.linear(h + "attn.qkv", y),
                lambda y: self.attention(y, self.m.heads, self.m.heads),
                lambda y: self.linear(h + "attn.proj", y),
            ])
            x = self.residual(x, [
                lambda y: self.layer_norm(h + "ln_2", y),
                lambda y: self.linear(h + "mlp.fc", y),
                self.gelu,
                lambda y: self.linear(h + "mlp.proj", y),
            ])
        return self.head(self.layer_norm("ln_f", x), "wte")

    def llama(self):
        kv = self.m.llama["kvHeads"]
        x = self.embedding("embed.weight", None)
        for layer in range(self.m.layers):
            h = f"layers.{layer}."
            x = self.residual(x, [
                lambda y: self.rms_norm(h + "attn_norm", y),
                lambda y: self.linear(h + "attn.qkv", y),
                lambda y: self.rotary(y, self.m.heads, kv),
                lambda y: self.attention(y, self.m.heads, kv),
                lambda y: self.linear(h + "attn.o", y),
            ])
            x = self.residual(x, [
                lambda y: self.rms_norm(h + "mlp_norm", y),
                lambda y: self.linear(h + "mlp.gate_up", y),
                self.swiglu,
                lambda y: self.linear(h + "mlp.down", y),
            ])
        return self.head(self.rms_norm("norm", x), "embed.weight")

    def head(self, x, table):
        name = table if self.m.tiedEmbeddings == "Tied" else "head.weight"
        return self.product(name, None, x)

    def residual(self, x, branch):
        """4.2, around a branch: the value before it is read twice, by the sum, which is the later node, and by the branch."""
        outer, self.tape = self.tape, []
        y = x
        for op in branch:
            y = op(y)
        inner, self.tape = self.tape, outer

        def backward(dy):
            d = dy
            for one in reversed(inner):
                d = one(d)
            return dy + d

        self.tape.append(backward)
        return x + y

    def embedding(self, table, positions):
        """4.1."""
        place = np.arange(len(self.tokens)) % self.length
        x = self.w[table][self.tokens]
        if positions:
            x = x + self.w[positions][place]

        def backward(dx):
            for name, index in ((table, self.tokens), (positions, place)):
                if name:
                    g = np.zeros_like(self.w[name])
                    for r, i in enumerate(index):
                        g[i] = g[i] + dx[r]
                    self.give(name, g)

        self.tape.append(backward)
        return x

    def layer_norm(self, name, x):
        """4.3."""
        w, b = self.w[name + ".weight"], self.w[name + ".bias"]
        i = inv(x.shape[1])
        mean = rows(x) * i
        c = x - mean[:, None]
        var = dot(c, c) * i
        rs = (F(1) / np.sqrt(var + EPS))[:, None]
        n = c * rs

        def backward(dy):
            dn = dy * w
            a, g = (rows(dn) * i)[:, None], (dot(dn, n) * i)[:, None]
            self.give(name + ".weight", cols(dy, n))
            self.give(name + ".bias", cols(dy))
            return fma(-n, g, dn - a) * rs

        self.tape.append(backward)
        return fma(n, w, b)

    def rms_norm(self, name, x):
        """4.11."""
        w = self.w[name + ".weight"]
        i = inv(x.shape[1])
        rs = (F(1) / np.sqrt(dot(x, x) * i + EPS))[:, None]
        n = x * rs

        def backward(dy):
            dn = dy * w
            g = (dot(dn, n) * i)[:, None]
            self.give(name + ".weight", cols(dy, n))
            return fma(-n, g, dn) * rs

        self.tape.append(backward)
        return n * w

    def linear(self, name, x):
        bias = name + ".bias"
        return self.product(name + ".weight", bias if bias in self.w else None, x)

    def product(self, weight, bias, x):
        """4.4."""
        w = self.w[weight]

        def backward(dy):
            self.give(weight, self.mm(np.ascontiguousarray(dy.T), x))
            if bias:
                self.give(bias, cols(dy))
            return self.mm(dy, w)

        self.tape.append(backward)
        return self.mm(x, np.ascontiguousarray(w.T), self.w[bias] if bias else None)

    def rotary(self, x, heads, kv):
        """4.12."""
        hd = x.shape[1] // (heads + 2 * kv)
        half, base = hd // 2, ln64(float(self.m.llama["ropeBase"]))
        w = [exp64(-((2 * j / hd) * base)) for j in range(half)]
        turns = [[sincos64(float(p) * w_j) for w_j in w] for p in range(self.length)]
        sin, cos = (np.array([[t[i] for t in row] for row in turns]).astype(F) for i in (0, 1))
        place = np.arange(len(x)) % self.length
        s, c = sin[place][:, None, :], cos[place][:, None, :]

        def turned(x, sign):
            y = x.copy().reshape(len(x), heads + 2 * kv, hd)
            part = y[:, : heads + kv]
            a, b = part[..., :half].copy(), part[..., half:].copy()
            if sign > 0:
                part[..., :half], part[..., half:] = fma(a, c, -(b * s)), fma(b, c, a * s)
            else:
                part[..., :half], part[..., half:] = fma(a, c, b * s), fma(b, c, -(a * s))
            return y.reshape(x.shape)

        self.tape.append(lambda dy: turned(dy, -1))
        return turned(x, 1)

    def attention(self, qkv, heads, kv):
        """4.5."""
        n, t = len(qkv), self.length
        hd, group = qkv.shape[1] // (heads + 2 * kv), heads // kv
        sc = F(1) / np.sqrt(F(hd))
        seen = np.tril(np.ones((t, t), bool))
        out, kept = np.zeros((n, heads * hd), F), {}
        column = lambda h: slice(h * hd, (h + 1) * hd)
        for first in range(0, n, t):
            rows_of = slice(first, first + t)
            for h in range(heads):
                q, k, v = (
                    qkv[rows_of, column(at)] for at in (h, heads + h // group, heads + kv + h // group)
                )
                z = chain(q, np.ascontiguousarray(k.T)) * sc
                p = np.zeros((t, t), F)
                for i in range(t):
                    e = exp(z[i, : i + 1] - z[i, : i + 1].max())
                    p[i, : i + 1] = e * (F(1) / rows(e))
                out[rows_of, column(h)] = chain(p, v)
                kept[first, h] = (q, k, v, p)

        def backward(d_out):
            d = np.zeros_like(qkv)
            for first in range(0, n, t):
                rows_of = slice(first, first + t)
                for at in range(kv):
                    dk, dv = np.zeros((t, hd), F), np.zeros((t, hd), F)
                    for h in range(at * group, (at + 1) * group):
                        q, k, v, p = kept[first, h]
                        do, o = d_out[rows_of, column(h)], out[rows_of, column(h)]
                        dp = chain(do, np.ascontiguousarray(v.T))
                        ds = np.where(seen, (p * (dp - dot(do, o)[:, None])) * sc, F(0))
                        d[rows_of, column(h)] = chain(ds, k)
                        for i in range(t):
                            dk = fma(ds[i, :, None], q[None, i], dk)
                            dv = fma(p[i, :, None], do[None, i], dv)
                    d[rows_of, column(heads + at)] = dk + F(0)
                    d[rows_of, column(heads + kv + at)] = dv + F(0)
            return d

        self.tape.append(backward)
        return out

    def gelu(self, x):
        """4.6."""
        k0, k1 = bits(0x3F4C422A), bits(0x3D372713)
        x2 = x * x
        u = (k0 * x) * fma(k1, x2, F(1))
        den = F(1) + exp(F(-2) * u)

        def backward(dy):
            s = F(1) / den
            du = k0 * fma(F(3) * k1, x2, F(1))
            return dy * fma((x * s) * (F(1) - s), F(2) * du, s)

        self.tape.append(backward)
        return x / den

    def swiglu(self, x):
        """4.13."""
        f = x.shape[1] // 2
        g, u = x[:, :f], x[:, f:]
        den = F(1) + exp(-g)

        def backward(dh):
            s = F(1) / den
            du = dh * (g / den)
            dg = (dh * u) * fma(g * s, F(1) - s, s)
            return np.concatenate([dg, du], axis=1)

        self.tape.append(backward)
        return (g / den) * u

    def cross_entropy(self, x):
        """4.8: the shard's loss and dlogits."""
        n = len(x)
        at = np.arange(n)
        d = x - x.max(axis=1)[:, None]
        e = exp(d)
        s = rows(e)
        losses = log(s) - d[at, self.targets]
        dx = e * (inv(n) / s)[:, None]
        dx[at, self.targets] = dx[at, self.targets] - inv(n)
        return rows(losses) / F(n), dx

