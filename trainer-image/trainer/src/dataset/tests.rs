use std::fs;
use std::path::PathBuf;

use muster_proof::{Digest, merkle};

use super::*;

fn text() -> Vec<u8> {
    (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn prepared() -> (tempfile::TempDir, PathBuf, Manifest) {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.txt"), dir.path().join("b.txt"));
    let text = text();
    fs::write(&a, &text[..3333]).unwrap();
    fs::write(&b, &text[3333..]).unwrap();
    let out = dir.path().join("out");
    let manifest = prepare(&[a, b], &out).unwrap();
    (dir, out, manifest)
}

#[test]
fn tokens_are_bytes_and_the_root_is_that_of_the_stream() {
    let (_dir, out, manifest) = prepared();
    let stream: Vec<u8> = text().iter().flat_map(|byte| [*byte, 0]).collect();
    assert_eq!(manifest.root(), merkle::root(stream.chunks(CHUNK_BYTES)));
    assert_eq!(manifest.tokens(), 10_000);
    assert_eq!(manifest.shards()[0].sha256, Digest::of(&stream));
    let bytes = fs::read(out.join(MANIFEST_FILE)).unwrap();
    assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
    assert_eq!(manifest.digest().unwrap(), Digest::of(&bytes));

    let data = Dataset::open(&out).unwrap();
    let mut tokens = [0; 70];
    data.read(9_930, &mut tokens).unwrap();
    assert!(tokens.iter().zip(&text()[9_930..]).all(|(token, byte)| *token == u32::from(*byte)));
    assert!(data.read(9_931, &mut tokens).is_err());
    assert!(data.read(u64::MAX, &mut tokens).is_err());
    assert_eq!((data.samples(64), data.samples(9_999), data.samples(10_000)), (156, 1, 0));
}

#[test]
fn preparing_again_is_fine_and_other_contents_are_refused() {
    let (dir, out, manifest) = prepared();
    let again = prepare(&[dir.path().join("a.txt"), dir.path().join("b.txt")], &out).unwrap();
    assert_eq!(again, manifest);
    let error = prepare(&[dir.path().join("a.txt")], &out).unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "no temporary directory stays: {left:?}");
}

#[test]
fn nothing_to_prepare_from_is_an_error_that_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, out) = (dir.path().join("empty"), dir.path().join("out"));
    fs::write(&empty, b"").unwrap();
    assert!(matches!(prepare(&[&empty], &out), Err(Error::Empty(0))));
    let error = prepare(&[dir.path().join("none")], &out).unwrap_err().to_string();
    assert!(error.contains("/none"), "{error}");
    assert!(!out.exists());
}

/// Damage of every kind is found at open, and the message names the file.
#[test]
fn damage_is_named() {
    let damage = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let (_dir, out, _) = prepared();
        let path = out.join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, change(bytes)).unwrap();
        let error = Dataset::open(&out).unwrap_err();
        let failure = crate::failure::Failure::from(error);
        assert_eq!(failure.code, ExitCode::BadData);
        failure.message
    };
    let shard = "tokens-00000.bin";
    let flipped = damage(shard, &|mut b| {
        b[5000] ^= 1;
        b
    });
    assert!(flipped.contains(shard) && flipped.contains("digest"), "{flipped}");
    let high = damage(shard, &|mut b| {
        b[5001] = 1;
        b
    });
    assert!(high.contains(shard) && high.contains("vocabulary has 256"), "{high}");
    let short = damage(shard, &|b| b[..b.len() - 2].to_vec());
    assert!(short.contains("has 19998 bytes"), "{short}");
    let manifest = damage(MANIFEST_FILE, &|b| b[..b.len() - 1].to_vec());
    assert!(manifest.contains("manifest"), "{manifest}");
    let spaced = damage(MANIFEST_FILE, &|b| [b" ".to_vec(), b].concat());
    assert!(spaced.contains("canonical"), "{spaced}");
    let edit = |from: &'static str, to: &'static str| {
        damage(MANIFEST_FILE, &move |b| String::from_utf8(b).unwrap().replace(from, to).into_bytes())
    };
    assert!(edit("10000", "10001").contains("shards[0].size"));
    assert!(edit("\"tokens\":10000", "\"tokens\":1").contains("tokens"));
    assert!(edit(":256", ":255").contains("vocabulary"));
    assert!(edit("\"bytes\"", "\"words\"").contains("does not know"));
    assert!(edit("\"bytes\"", "\"gpt2\"").contains("gpt2 has 50257"));
    assert!(edit("\"bytes\",", "\"bytes\",\"tokenizerBytes\":5,").contains("bytes has no file"));
    assert!(edit("tokens-00000.bin", "../../etc/passwd").contains("shards[0].path"));
    assert!(edit("\"U16\"", "\"U32\"").contains("dtype"));
    assert!(edit("muster.dataset/1", "muster.dataset/2").contains("format"));
    assert!(edit("\"dtype\"", "\"dtypf\"").contains("unknown field"));

    let (_dir, out, _) = prepared();
    fs::remove_file(out.join(shard)).unwrap();
    assert!(Dataset::open(&out).unwrap_err().to_string().contains(shard));
    fs::remove_file(out.join(MANIFEST_FILE)).unwrap();
    assert!(matches!(Dataset::open(&out), Err(Error::Missing(_))));
}
