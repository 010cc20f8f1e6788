// Reads a log that operator/proof/examples/interop_tlog.rs wrote with Go's own golang.org/x/mod/sumdb/{note,tlog}, and
// says `ok NAME` or `FAIL NAME: why` for each check. What must be refused is a check, too.
package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	dir            string
	passed, failed int
)

func check(name string, err error) {
	if err != nil {
		failed++
		fmt.Printf("FAIL %s: %v\n", name, err)
		return
	}
	passed++
	fmt.Printf("ok %s\n", name)
}

// refuse is a check that must fail; with want, for the reason that it recognises.
func refuse(name string, err error, want func(error) bool) {
	switch {
	case err == nil:
		check(name, errors.New("was accepted"))
	case want != nil && !want(err):
		check(name, fmt.Errorf("refused for another reason: %w", err))
	default:
		check(name, nil)
	}
}

// unverified: no signature of a known key.
func unverified(err error) bool {
	_, ok := errors.AsType[*note.UnverifiedNoteError](err)
	return ok
}

// forged: a signature in the name of a known key is not its own.
func forged(err error) bool {
	_, ok := errors.AsType[*note.InvalidSignatureError](err)
	return ok
}

func read(name string) []byte {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		fmt.Printf("FAIL %s: %v\n", name, err)
		os.Exit(1)
	}
	return data
}

func word(name string) string { return strings.TrimSpace(string(read(name))) }

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		fmt.Printf("FAIL numbers: %v\n", err)
		os.Exit(1)
	}
	return n
}

func hashes(name string) []tlog.Hash {
	var all []tlog.Hash
	for _, line := range strings.Fields(string(read(name))) {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			fmt.Printf("FAIL %s: %v\n", name, err)
			os.Exit(1)
		}
		all = append(all, hash)
	}
	return all
}

// cosigner verifies cosignature/v1, which x/mod does not know: c2sp.org/tlog-cosignature.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
	time uint64
}

func newCosigner(vkey string) (*cosigner, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("not a verifier key")
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != 4 {
		return nil, errors.New("not the key of a witness")
	}
	hash, err := strconv.ParseUint(parts[1], 16, 32)
	return &cosigner{name: parts[0], hash: uint32(hash), key: key[1:]}, err
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }
func (c *cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	c.time = binary.BigEndian.Uint64(sig)
	return ed25519.Verify(c.key, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", c.time, msg), sig[8:])
}

// tiles reads our files; x/mod names the height in a path, tlog-tiles does not. spoil changes what was read.
type tiles struct {
	spoil func(tlog.Tile, []byte) []byte
}

func (t tiles) Height() int                     { return 8 }
func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (t tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range want {
		data, err := os.ReadFile(filepath.Join(dir, strings.Replace(tile.Path(), "tile/8/", "tile/", 1)))
		if err != nil {
			return nil, err
		}
		if t.spoil != nil {
			data = t.spoil(tile, data)
		}
		all = append(all, data)
	}
	return all, nil
}

func flip(hash tlog.Hash) tlog.Hash {
	hash[7] ^= 4
	return hash
}

func main() {
	dir = os.Args[1]
	logKey, err := note.NewVerifier(word("log.vkey"))
	check("the log's verifier key", err)
	otherKey, err := note.NewVerifier(word("other.vkey"))
	check("another verifier key", err)
	witness, err := newCosigner(word("witness.vkey"))
	check("the witness's verifier key", err)
	if failed > 0 {
		os.Exit(1)
	}
	open := func(msg []byte, keys ...note.Verifier) (tlog.Tree, error) {
		signed, err := note.Open(msg, note.VerifierList(keys...))
		if err != nil {
			return tlog.Tree{}, err
		}
		if len(signed.Sigs) != len(keys) {
			return tlog.Tree{}, fmt.Errorf("%d of %d signatures", len(signed.Sigs), len(keys))
		}
		// The format of checkpoints is that of go.sum's database but for the first line.
		lines := strings.SplitN(signed.Text, "\n", 4)
		if len(lines) != 4 || lines[0] != logKey.Name() || lines[3] != "" {
			return tlog.Tree{}, errors.New("not a checkpoint of the log")
		}
		hash, err := tlog.ParseHash(lines[2])
		return tlog.Tree{N: number(lines[1]), Hash: hash}, err
	}

	trees := map[int64]tlog.Tree{}
	var sizes []int64
	for _, text := range strings.Fields(word("sizes")) {
		size := number(text)
		tree, err := open(read("checkpoint."+text), logKey, witness)
		if err == nil && (tree.N != size || witness.time != uint64(number(word("time")))) {
			err = errors.New("another size or time")
		}
		check("checkpoint of size "+text, err)
		trees[size], sizes = tree, append(sizes, size)
	}
	if failed > 0 {
		os.Exit(1)
	}
	last := trees[sizes[len(sizes)-1]]

	// Tiles: the root of each size, which x/mod computes from them, and entries against leaf hashes.
	for _, size := range sizes {
		if size == 0 {
			continue
		}
		reader := tlog.TileHashReader(trees[size], tiles{})
		root, err := tlog.TreeHash(size, reader)
		if err == nil && root != trees[size].Hash {
			err = errors.New("another root")
		}
		check(fmt.Sprintf("root of size %d from tiles", size), err)
	}
	check("every entry is in its tile", entries(last))

	// Inclusion and consistency: our proofs, and theirs from our tiles are the same.
	names, _ := filepath.Glob(filepath.Join(dir, "inclusion.*"))
	for _, name := range names {
		name = filepath.Base(name)
		parts := strings.Split(name, ".")
		index, size := number(parts[1]), number(parts[2])
		all := hashes(name)
		leaf, proof, tree := all[0], tlog.RecordProof(all[1:]), trees[size]
		err := tlog.CheckRecord(proof, size, tree.Hash, index, leaf)
		if err == nil && leaf != tlog.RecordHash(fmt.Appendf(nil, "entry %d", index)) {
			err = errors.New("another leaf")
		}
		if err == nil {
			theirs, read := tlog.ProveRecord(size, index, tlog.TileHashReader(tree, tiles{}))
			if err = read; err == nil && !same(theirs, proof) {
				err = errors.New("x/mod proves otherwise")
			}
		}
		check(name, err)
	}
	names, _ = filepath.Glob(filepath.Join(dir, "consistency.*"))
	for _, name := range names {
		name = filepath.Base(name)
		parts := strings.Split(name, ".")
		old, size := number(parts[1]), number(parts[2])
		proof := tlog.TreeProof(hashes(name))
		err := tlog.CheckTree(proof, size, trees[size].Hash, old, trees[old].Hash)
		if err == nil {
			theirs, read := tlog.ProveTree(size, old, tlog.TileHashReader(trees[size], tiles{}))
			if err = read; err == nil && !same(theirs, proof) {
				err = errors.New("x/mod proves otherwise")
			}
		}
		check(name, err)
	}

	// What must be refused.
	for at := range hashes("inclusion.65535.70000")[1:] {
		all := hashes("inclusion.65535.70000")
		all[at+1] = flip(all[at+1])
		err := tlog.CheckRecord(all[1:], 70000, last.Hash, 65535, all[0])
		refuse(fmt.Sprintf("refuses a flipped bit in hash %d of an inclusion proof", at), err, nil)
	}
	for at := range hashes("consistency.257.70000") {
		all := hashes("consistency.257.70000")
		all[at] = flip(all[at])
		err := tlog.CheckTree(all, 70000, last.Hash, 257, trees[257].Hash)
		refuse(fmt.Sprintf("refuses a flipped bit in hash %d of a consistency proof", at), err, nil)
	}
	all := hashes("inclusion.65535.70000")
	refuse("refuses an inclusion proof at another index", tlog.CheckRecord(all[1:], 70000, last.Hash, 65534, all[0]), nil)
	refuse("refuses an inclusion proof in another tree", tlog.CheckRecord(all[1:], 69999, trees[69999].Hash, 65535, all[0]), nil)
	other, err := open(read("bad/other-root"), logKey)
	check("opens a checkpoint with another root", err)
	refuse("refuses an inclusion proof under another root", tlog.CheckRecord(all[1:], 70000, other.Hash, 65535, all[0]), nil)
	refuse("refuses a consistency proof to another root",
		tlog.CheckTree(hashes("consistency.257.70000"), 70000, other.Hash, 257, trees[257].Hash), nil)
	_, err = tlog.TreeHash(70000, tlog.TileHashReader(other, tiles{}))
	refuse("refuses tiles under another root", err, nil)
	_, err = open(read("bad/other-key"), logKey)
	refuse("refuses a checkpoint by another key", err, unverified)
	_, err = open(read("bad/other-key"), otherKey)
	check("which that key did sign", err)
	_, err = open(read("bad/changed-size"), logKey)
	refuse("refuses a checkpoint of changed size", err, forged)
	_, err = open(read("checkpoint.70000"), otherKey)
	refuse("refuses a good checkpoint under another key", err, unverified)
	witness.key = append(ed25519.PublicKey{}, witness.key...)
	witness.key[3] ^= 1
	_, err = open(read("checkpoint.70000"), logKey, witness)
	refuse("refuses a cosignature of another key", err, forged)
	for _, level := range []int{0, 1, 2} {
		spoiled := tiles{spoil: func(tile tlog.Tile, data []byte) []byte {
			if tile.L == level {
				data = bytes.Clone(data)
				data[5] ^= 1
			}
			return data
		}}
		_, err := tlog.ProveRecord(70000, 5, tlog.TileHashReader(last, spoiled))
		refuse(fmt.Sprintf("refuses a changed tile of level %d", level), err, nil)
	}
	swapped := tiles{spoil: func(tile tlog.Tile, data []byte) []byte {
		if tile.L == 0 && tile.N == 0 {
			return read("tile/0/001")
		}
		return data
	}}
	_, err = tlog.ProveRecord(70000, 5, tlog.TileHashReader(last, swapped))
	refuse("refuses another tile in its place", err, nil)

	fmt.Printf("%d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

// entries reads all entry bundles of a tree and holds them against the leaf hashes, which x/mod authenticates.
func entries(tree tlog.Tree) error {
	reader := tlog.TileHashReader(tree, tiles{})
	for first := int64(0); first < tree.N; first += 256 {
		width := min(256, tree.N-first)
		path := strings.Replace(tlog.Tile{H: 8, L: -1, N: first / 256, W: int(width)}.Path(), "tile/8/data/", "tile/entries/", 1)
		data, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		var indexes []int64
		for i := first; i < first+width; i++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, i))
		}
		leaves, err := reader.ReadHashes(indexes)
		if err != nil {
			return err
		}
		for i, leaf := range leaves {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return fmt.Errorf("%s ends early", path)
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			if tlog.RecordHash(data[2:end]) != leaf {
				return fmt.Errorf("entry %d is not the one in the tree", first+int64(i))
			}
			data = data[end:]
		}
		if len(data) != 0 {
			return fmt.Errorf("%s goes on", path)
		}
	}
	return nil
}

func same(a, b []tlog.Hash) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
