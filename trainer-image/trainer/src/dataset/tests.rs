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

/// The examples of docs/spec/dataset.md, which a few lines of Python computed.
#[test]
fn datasets_of_every_tokenizer_have_their_digests() {
    let bytes: Vec<u32> = b"Hello world".iter().map(|byte| u32::from(*byte)).collect();
    for (text, tokens, root, digest) in [
        (
            Text::bytes(),
            bytes.as_slice(),
            "4264e342471c53b283bc9b3355a03ccfa5482fed1da4a8f527502e6fe3aae7c4",
            "d9d004097d165f7bf90da65e905a959b2e8d88d9875fe7fd7f96dfe11e469aa2",
        ),
        (
            Text::gpt2(),
            &[15_496, 995, 50_256],
            "49745b4fc8f2794813f1e3d783746818bbe528a8f5b62235c6a1eb46e6a6f9d0",
            "be10505888f8d04198cdd6dc4f288c095e5b72a4efe859c1d97c2057d81ff720",
        ),
        (
            Text::file(b"{}", 70_000),
            &[1, 69_999, 3],
            "36b899c1b958f99260ca22f2d250710175f7e85082b39bc2b714d994c65e47a5",
            "0ab1545e3ee2d8c0c63d2f741d8bbd80067e0d771a5c2f3fbc0b41cdb797ba1f",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path(), text.clone());
        writer.push(tokens).unwrap();
        let manifest = writer.finish().unwrap();
        assert_eq!(
            (manifest.root().to_hex(), manifest.digest().unwrap().to_hex()),
            (root.into(), digest.into())
        );
        fs::write(dir.path().join(MANIFEST_FILE), manifest.to_bytes().unwrap()).unwrap();
        let data = Dataset::open(dir.path()).unwrap();
        let mut read = vec![0; tokens.len()];
        data.read(0, &mut read).unwrap();
        assert_eq!((read.as_slice(), data.manifest().tokenizer()), (tokens, text.tokenizer()));
        let error = Writer::new(dir.path(), text.clone()).push(&[text.vocabulary()]).unwrap_err().to_string();
        assert!(error.contains("vocabulary"), "{error}");
    }
}

/// A file ends and another begins where the stream is cut: what is taken up there is the same stream.
#[test]
fn a_writer_goes_on_where_another_was_durable() {
    for (text, width) in [(Text::gpt2(), 2), (Text::file(b"{}", 70_000), 4)] {
        let per_shard = usize::try_from(SHARD_BYTES).unwrap() / width;
        let tokens: Vec<u32> =
            (0..per_shard as u32 + 5000).map(|i| i.wrapping_mul(2_654_435_761) >> 17).collect();
        let cuts = [0, 1, 2047, 2048, per_shard - 1, per_shard, per_shard + 1, tokens.len()];
        let dir = tempfile::tempdir().unwrap();
        let mut whole = Writer::new(dir.path(), text.clone());
        let mut marks = Vec::new();
        for two in cuts.windows(2) {
            marks.push(whole.sync().unwrap());
            whole.push(&tokens[two[0]..two[1]]).unwrap();
        }
        let whole = whole.finish().unwrap();
        assert_eq!(whole.shards().len(), 2);
        for mark in marks.into_iter().rev() {
            let at = usize::try_from(mark.tokens).unwrap();
            let mut again = Writer::resume(dir.path(), text.clone(), &mark).unwrap();
            again.push(&tokens[at..]).unwrap();
            assert_eq!(again.finish().unwrap(), whole, "from {at}");
            let wrong = Mark { root: Digest::of(b"other"), ..mark };
            assert!(matches!(Writer::resume(dir.path(), text.clone(), &wrong), Err(Error::Corrupt { .. })));
        }
        let beyond = Mark { tokens: whole.tokens() + 1, root: whole.root() };
        assert!(Writer::resume(dir.path(), text, &beyond).is_err());
    }
}
