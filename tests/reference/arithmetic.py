"""Sections 1 to 3 of docs/spec/numerics.md in NumPy: expressions, products, reductions, functions.

Written from that text, not from the trainer. One array operation per sentence, nothing is blocked, skipped or reordered. Arrays are
float32; an expression in float64 says so.
"""

import numpy as np

F = np.float32


def bits(pattern):
    """The f32 with these bits."""
    return np.uint32(pattern).view(F)


def as_int(x):
    return np.asarray(x, F).view(np.int32)


def from_int(i):
    return np.asarray(i, np.int32).view(F)


def fma(a, b, c):
    """1.2: one rounding. The product is exact in float64; its sum with c is rounded to odd there (Boldo and Melquiond, 2008), so that
    rounding it to float32 is the only rounding."""
    p = np.asarray(a, F).astype(np.float64) * np.asarray(b, F).astype(np.float64)
    c = np.broadcast_to(np.asarray(c, F), np.broadcast_shapes(p.shape, np.shape(c))).astype(np.float64)
    s = p + c
    t = s - p
    error = (p - (s - t)) + (c - t)
    i = s.view(np.int64)
    inexact = (error > 0) | (error < 0)
    away = np.where((error > 0) == (s > 0), 1, -1)
    return (i + np.where(inexact & (i & 1 == 0), away, 0)).view(np.float64).astype(F)


def inv(n):
    """1.5."""
    return F(1) / F(n)


# 2. Products and reductions


def chain(a, b, bias=None):
    """2.1."""
    acc = np.zeros((a.shape[0], b.shape[1]), F)
    if bias is not None:
        acc = acc + bias
    for k in range(a.shape[1]):
        acc = fma(a[:, k, None], b[None, k, :], acc)
    return acc + F(0)


def lines(x):
    """2.4 for the rows of x: integers, as float64, and 2^e of each."""
    m = (as_int(x) & 0x7FFFFFFF).max(axis=1)
    e = np.maximum(m >> 23, 14) - 141 + ((m & 0x7FFFFF) > 0x7E8000)
    e = np.where(m == 0, 0, e)
    finite = m < 0x7F800000
    e = np.where(finite, e, 0)
    down = ((127 - e).astype(np.int32) << 23).view(F)
    scaled = np.where(finite[:, None], x, F(0)) * down[:, None]
    up = np.where(finite, np.ldexp(1.0, e), np.nan)
    return np.rint(scaled).astype(np.float64), up


def exact(a, b, bias=None):
    """2.4. Sums of integers below 2^53 are exact in float64, in any order."""
    (qa, sa), (qb, sb) = lines(a), lines(np.ascontiguousarray(b.T))
    v = ((qa @ qb.T) * (sa[:, None] * sb[None, :])).astype(F) + F(0)
    return v if bias is None else bias + v


def halve(lanes):
    s = 16
    while s:
        lanes = lanes[..., :s] + lanes[..., s : 2 * s]
        s //= 2
    return lanes[..., 0] + F(0)


def rows(x):
    """2.2 along the last axis."""
    lanes = np.zeros((*x.shape[:-1], 32), F)
    for first in range(0, x.shape[-1], 32):
        part = x[..., first : first + 32]
        lanes[..., : part.shape[-1]] += part
    return halve(lanes)


def dot(x, y):
    """2.2 along the last axis."""
    lanes = np.zeros((*x.shape[:-1], 32), F)
    for first in range(0, x.shape[-1], 32):
        one, two = x[..., first : first + 32], y[..., first : first + 32]
        n = one.shape[-1]
        lanes[..., :n] = fma(one, two, lanes[..., :n])
    return halve(lanes)


def cols(x, y=None):
    """2.2 down the columns."""
    out = np.zeros(x.shape[1], F)
    for first in range(0, len(x), 64):
        a = np.zeros(x.shape[1], F)
        for r in range(first, min(first + 64, len(x))):
            a = a + x[r] if y is None else fma(x[r], y[r], a)
        out = out + a
    return out


def tree(values):
    """2.3."""
    values = list(values)
    while len(values) > 1:
        pairs = [values[i] + values[i + 1] for i in range(0, len(values) - 1, 2)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


# 3. Functions


def exp(x):
    """3.1."""
    x = np.asarray(x, F)
    x = np.where(x < F(-104), F(-104), x)
    x = np.where(x > F(89), F(89), x)
    magic = bits(0x4B400000)
    t = fma(x, bits(0x3FB8AA3B), magic)
    n = t - magic
    r = fma(n, -bits(0x3F318000), x)
    r = fma(n, bits(0x395E8083), r)
    p = np.broadcast_to(bits(0x39506967), r.shape)
    for c in (0x3AB743CE, 0x3C088908, 0x3D2AA9C1, 0x3E2AAAAA, 0x3F000000):
        p = fma(p, r, bits(c))
    p = fma(p, r * r, r) + F(1)
    whole = as_int(t) - np.int32(0x4B400000)
    one = whole >> 1
    two = whole - one
    return (p * from_int((one + 127) << 23)) * from_int((two + 127) << 23)


def log(x):
    """3.2."""
    x = np.asarray(x, F)
    b = as_int(x)
    k = (b - np.int32(0x3F3504F3)) >> 23
    m = from_int(b - (k << 23)) - F(1)
    e = k.astype(F)
    z = m * m
    y = np.broadcast_to(bits(0x3D9021BB), m.shape)
    for c in (0xBDEBD1B8, 0x3DEF251A, 0xBDFE5D4F, 0x3E11E9BF, 0xBE2AAE50, 0x3E4CCEAC, 0xBE7FFFFC, 0x3EAAAAAA):
        y = fma(y, m, bits(c))
    y = (y * m) * z
    y = fma(e, -bits(0x395E8083), y)
    y = fma(z, F(-0.5), y)
    y = fma(e, bits(0x3F318000), m + y)
    return np.where(b & 0x7F800000 == 0x7F800000, F(np.nan), y)


def hexf(text):
    return float.fromhex(text)


def rint64(y):
    magic = hexf("0x1.8p52")
    return (y + magic) - magic


def sincos64(x):
    """3.3, of one Python float, which is an f64."""
    k = rint64(x * hexf("0x1.45f306dc9c883p-1"))
    r = ((x - k * hexf("0x1.921fb544p+0")) - k * hexf("0x1.0b4611a6p-34")) - k * hexf("0x1.3198a2ep-69")
    z = r * r
    s = c = 1.0
    for j in range(9, 0, -1):
        s = 1.0 - (z * s) / ((2.0 * j) * (2.0 * j + 1.0))
        c = 1.0 - (z * c) / ((2.0 * j - 1.0) * (2.0 * j))
    s = r * s
    return [(s, c), (c, -s), (-s, -c), (-c, s)][int(k) % 4]


def exp64(x):
    """3.4."""
    n = rint64(x * hexf("0x1.71547652b82fep+0"))
    r = (x - n * hexf("0x1.62e42feep-1")) - n * hexf("0x1.a39ef35793c76p-33")
    p = 1.0
    for j in range(16, 0, -1):
        p = 1.0 + (r * p) / j
    return p * 2.0**n


def ln64(x):
    """3.5."""
    b = int(np.float64(x).view(np.int64))
    e = (b - 0x3FE6A09E667F3BCD) >> 52
    m = float(np.int64(b - (e << 52)).view(np.float64))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = 1.0 / 25.0
    for j in range(11, -1, -1):
        p = 1.0 / (2 * j + 1) + z * p
    return float(e) * hexf("0x1.62e42feep-1") + ((2.0 * s) * p + float(e) * hexf("0x1.a39ef35793c76p-33"))


# 7.1


def philox(counter, key):
    """Philox4x32-10 of one counter (four words) or of many (arrays)."""
    mask = np.uint64(0xFFFFFFFF)
    c = [np.asarray(word, np.uint64) for word in counter]
    k = [int(word) for word in key]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        high = np.uint64(32)
        c = [
            (b >> high) ^ c[1] ^ np.uint64(k[0]),
            b & mask,
            (a >> high) ^ c[3] ^ np.uint64(k[1]),
            a & mask,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c
