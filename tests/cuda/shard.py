"""Section 4 of docs/spec/numerics.md on a GPU: the models of tests/reference, each op of which launches kernels instead."""

import functools
import pathlib
import sys

import cupy
import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "reference"))

import model as reference
from arithmetic import exp64, inv, ln64, sincos64
from device import FROM_DIAGONAL, LOWER_RESULT, RESUME, UNTIL_DIAGONAL, F, I, L, ceil


def empty(*shape):
    return cupy.empty(shape, cupy.float32)


@functools.cache
def turns(length, hd, base):
    """4.12: sines and cosines of each position and pair."""
    w = [exp64(-((2 * j / hd) * ln64(float(base)))) for j in range(hd // 2)]
    table = [[sincos64(float(p) * w_j) for w_j in w] for p in range(length)]
    return [cupy.asarray(np.array([[turn[i] for turn in row] for row in table]).astype(F)) for i in (0, 1)]


def grouped(ids):
    """The rows of each id, ascending: ids that occur, where their rows begin, rows."""
    order = np.argsort(ids, kind="stable").astype(np.int32)
    token, start = np.unique(ids[order], return_index=True)
    start = np.append(start, len(ids)).astype(np.int32)
    return [cupy.asarray(x) for x in (token.astype(np.int32), start, order)]


class Shard(reference.Shard):
    """Loss and gradient of one shard. `grads` are views of a flat buffer of zeros; `weights` are on the device."""

    def __init__(self, device, spec, weights, tokens, targets, grads=None):
        super().__init__(spec, weights, tokens, targets)
        self.device, self.grads, self.given = device, grads, set()
        self.exact = spec["training"]["arithmetic"] == "i16-exact"
        self.ids = cupy.asarray(self.tokens.astype(np.int32))
        self.wanted = cupy.asarray(self.targets.astype(np.int32))
        self.n = len(self.tokens)

    def give(self, name, compute):
        """4.10: `compute` fills what it is given."""
        grad = self.grads[name]
        if name in self.given:
            more = cupy.empty_like(grad)
            compute(more)
            self.device.add(grad, more, grad)
        else:
            compute(grad)
            self.given.add(name)

    def residual(self, x, branch):
        outer, self.tape = self.tape, []
        y = x
        for op in branch:
            y = op(y)
        first, *rest = self.tape
        self.tape = outer

        def backward(dy):
            d = dy
            for one in reversed(rest):
                d = one(d)
            return first(d, dy)

        self.tape.append(backward)
        out = cupy.empty_like(x)
        self.device.add(x, y, out)
        return out

    def embedding(self, table, positions):
        width = self.w[table].shape[1]
        y = empty(self.n, width)
        where = self.w[positions] if positions else None
        self.device.each("embedding", y.size, L(self.n), I(width), I(self.length), self.ids, self.w[table], where, y)

        def backward(dx):
            for name, ids in ((table, self.tokens), (positions, np.arange(self.n) % self.length)):
                if name:
                    token, start, order = grouped(ids)
                    grid = (len(token), ceil(width, 128))
                    self.device.launch("embedding_gradient", grid, 128, I(width), token, start, order, dx, self.grads[name])

        self.tape.append(backward)
        return y

    def norm(self, name, x, has_bias):
        w, b = self.w[name + ".weight"], self.w[name + ".bias"] if has_bias else None
        rows, width = x.shape
        n, rs, y = cupy.empty_like(x), empty(rows), cupy.empty_like(x)
        self.device.rows("norm_rows", rows, I(rows), I(width), inv(width), x, w, b, n, rs, y)

        def backward(dy, more=None):
            self.give(name + ".weight", lambda out: self.device.cols(dy, n, out))
            if has_bias:
                self.give(name + ".bias", lambda out: self.device.cols(dy, None, out))
            dx = cupy.empty_like(dy)
            self.device.rows(
                "norm_gradient_rows", rows, I(rows), I(width), inv(width), I(has_bias), dy, w, n, rs, more, dx
            )
            return dx

        self.tape.append(backward)
        return y

    def layer_norm(self, name, x):
        return self.norm(name, x, True)

    def rms_norm(self, name, x):
        return self.norm(name, x, False)

    def product(self, weight, bias, x):
        w, device, rows = self.w[weight], self.device, len(x)
        out, k = w.shape
        # Logits of an odd vocabulary have a stride that keeps rows aligned; its gap is never read.
        ld = ceil(out, 4) * 4
        y = empty(rows, ld)[:, :out]
        b = self.w[bias] if bias else None
        if self.exact:
            device.exact(device.row_lines(x, rows, k, k), device.row_lines(w, out, k, k), y, ld, b)
        else:
            device.chain("nt", rows, out, k, x, k, w, k, y, ld, b)

        def backward(dy):
            dx = empty(rows, k)

            def d_weight(grad):
                if self.exact:
                    device.exact(device.column_lines(dy, rows, out, ld), device.column_lines(x, rows, k, k), grad, k)
                else:
                    device.chain("tn", out, k, rows, dy, ld, x, k, grad, k)

            self.give(weight, d_weight)
            if bias:
                self.give(bias, lambda grad: device.cols(dy, None, grad))
            if self.exact:
                device.exact(device.row_lines(dy, rows, out, ld), device.column_lines(w, out, k, k), dx, k)
            else:
                device.chain("nn", rows, k, out, dy, ld, w, k, dx, k)
            return dx

        self.tape.append(backward)
        return y

    def rotary(self, x, heads, kv):
        rows, width = x.shape
        hd = width // (heads + 2 * kv)
        half = hd // 2
        sines, cosines = turns(self.length, hd, self.m.llama["ropeBase"])

        def turned(x, backward):
            y = cupy.empty_like(x)
            self.device.each(
                "rotary", x.size, L(rows), I(self.length), I(width), I((heads + kv) * hd), I(half), I(backward), cosines, sines, x, y
            )
            return y

        self.tape.append(lambda dy: turned(dy, 1))
        return turned(x, 0)

    def attention(self, qkv, heads, kv):
        device, t = self.device, self.length
        rows, ld = qkv.shape
        sequences, hd, group = rows // t, ld // (heads + 2 * kv), heads // kv
        sc = F(1) / np.sqrt(F(hd))
        q, k, v = qkv, qkv[:, heads * hd :], qkv[:, (heads + kv) * hd :]
        count, square, own, all_rows = sequences * heads, t * t, heads * hd, sequences * heads * t
        # Of each (sequence, head): a matrix of its own, a head's columns in qkv, the same in o.
        of_square, of_qkv, of_out = (heads * square, square), (t * ld, hd), (t * own, hd)
        batch = dict(count=count, inner=heads)
        p, o = empty(sequences, heads, t, t), empty(rows, own)
        device.chain("nt", t, t, hd, q, ld, k, ld, p, t, mode=LOWER_RESULT, share=group,
                     strides=(*of_qkv, *of_qkv, *of_square), **batch)
        device.rows("softmax_rows", all_rows, L(all_rows), I(t), sc, p)
        device.chain("nn", t, hd, t, p, t, v, ld, o, own, mode=UNTIL_DIAGONAL, share=group,
                     strides=(*of_square, *of_qkv, *of_out), **batch)

        def backward(d_out):
            dots, ds, d = empty(all_rows), empty(sequences, heads, t, t), cupy.empty_like(qkv)
            device.rows("head_dots_rows", all_rows, L(all_rows), I(t), I(heads), I(hd), d_out, o, dots)
            device.chain("nt", t, t, hd, d_out, own, v, ld, ds, t, mode=LOWER_RESULT, share=group,
                         strides=(*of_out, *of_qkv, *of_square), **batch)
            device.rows("softmax_gradient_rows", all_rows, L(all_rows), I(t), sc, p, dots, ds)
            device.chain("nn", t, hd, t, ds, t, k, ld, d, ld, mode=UNTIL_DIAGONAL, share=group,
                         strides=(*of_square, *of_qkv, *of_qkv), **batch)
            # Keys and values of a group of heads: one chain over its heads.
            d_k, d_v = d[:, heads * hd :], d[:, (heads + kv) * hd :]
            of_group = (heads * square, group * square)
            for g in range(group):
                mode = FROM_DIAGONAL | (RESUME if g else 0)
                mine = dict(count=sequences * kv, inner=kv, mode=mode)
                device.chain("tn", t, hd, t, ds[0, g], t, q[:, g * hd :], ld, d_k, ld,
                             strides=(*of_group, t * ld, group * hd, *of_qkv), **mine)
                device.chain("tn", t, hd, t, p[0, g], t, d_out[:, g * hd :], own, d_v, ld,
                             strides=(*of_group, t * own, group * hd, *of_qkv), **mine)
            return d

        self.tape.append(backward)
        return o

    def gelu(self, x):
        y = cupy.empty_like(x)
        self.device.each("gelu", x.size, L(x.size), x, y)

        def backward(dy):
            dx = cupy.empty_like(x)
            self.device.each("gelu_gradient", x.size, L(x.size), x, dy, dx)
            return dx

        self.tape.append(backward)
        return y

    def swiglu(self, x):
        rows, f = len(x), x.shape[1] // 2
        y = empty(rows, f)
        self.device.each("swiglu", y.size, L(rows), I(f), x, y)

        def backward(dh):
            dx = cupy.empty_like(x)
            self.device.each("swiglu_gradient", y.size, L(rows), I(f), x, dh, dx)
            return dx

        self.tape.append(backward)
        return y

    def cross_entropy(self, x):
        """The shard's loss, on the device, and the gradient in place of `x`."""
        n, width = x.shape
        losses, loss = empty(n), empty(1)
        self.device.rows("cross_entropy_rows", n, I(n), I(width), L(x.strides[0] // 4), inv(n), self.wanted, x, losses)
        self.device.rows("sum_rows", 1, I(1), I(n), losses, L(n), F(n), loss)
        self.losses = losses
        return loss, x
