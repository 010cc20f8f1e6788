use super::*;
use crate::text::cut::{Split, Unit, cuts};
use crate::text::tests::{Random, byte_level, text};
use muster_trainer::dataset::Dataset;
use std::sync::Mutex;

struct Site {
    dir: tempfile::TempDir,
    inputs: Vec<PathBuf>,
}

impl Site {
    fn new(files: &[&[u8]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: usize| dir.path().join(format!("in{n}"));
        let inputs: Vec<_> = (0..files.len()).map(path).collect();
        inputs.iter().zip(files).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        Self { dir, inputs }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn partial(&self) -> PathBuf {
        self.dir.path().join(".out.partial")
    }

    fn run(
        &self,
        tokenizer: &Tokenizer,
        split: Split,
        grain: (usize, u64),
        watch: &dyn Watch,
    ) -> Result<Manifest, Error> {
        self.run_with(tokenizer, split, 2, grain, watch)
    }

    fn run_with(
        &self,
        tokenizer: &Tokenizer,
        split: Split,
        threads: usize,
        (step, state_every): (usize, u64),
        watch: &dyn Watch,
    ) -> Result<Manifest, Error> {
        let out = self.out();
        let restart = Restart::No;
        let job = Job { inputs: &self.inputs, out: &out, tokenizer, split, threads, restart };
        prepare_in(&job, watch, Grain { step, state_every })
    }
}

struct Quiet;
impl Watch for Quiet {}

const COARSE: (usize, u64) = (1 << 20, 1 << 30);
const FINE: (usize, u64) = (7, 1);

fn texts() -> Vec<String> {
    let mut random = Random(11);
    let texts: Vec<String> = [200, 0, 1, 60].iter().map(|parts| text(&mut random, *parts)).collect();
    // The longest gap between two places to cut is short, so that small steps are enough.
    texts.into_iter().map(|text| text + "\n").collect()
}

fn tokenizers() -> Vec<Tokenizer> {
    let file = || Tokenizer::parse(byte_level()).unwrap();
    vec![Tokenizer::bytes(), Tokenizer::gpt2().unwrap(), file(), file().ending_with("</s>").unwrap()]
}

/// The definition: each document by itself, its end after it.
fn expected(tokenizer: &Tokenizer, split: Split, texts: &[String]) -> Vec<u32> {
    let mut tokens = Vec::new();
    for text in texts {
        let mut start = 0;
        for end in cuts(text.as_bytes(), split, Unit::Document, true).ends {
            tokenizer.encode(&text.as_bytes()[start..end], &mut tokens).unwrap();
            tokens.extend(tokenizer.end());
            start = end;
        }
    }
    tokens
}

fn read(out: &Path) -> Vec<u32> {
    let data = Dataset::open(out).unwrap();
    let mut tokens = vec![0; usize::try_from(data.manifest().tokens()).unwrap()];
    data.read(0, &mut tokens).unwrap();
    tokens
}

#[test]
fn the_result_is_the_definition_however_it_is_computed() {
    let texts = texts();
    let bytes: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    for tokenizer in &tokenizers() {
        for split in [Split::File, Split::Line, Split::Paragraph] {
            let want = expected(tokenizer, split, &texts);
            let mut digests = Vec::new();
            for threads in 1..=4 {
                for step in [1, 2, 3, 7, 64, 4096] {
                    let site = Site::new(&bytes);
                    let manifest = site.run_with(tokenizer, split, threads, (step, 100), &Quiet).unwrap();
                    digests.push(manifest.digest().unwrap());
                    if digests.len() == 1 {
                        assert_eq!(read(&site.out()), want);
                        assert_eq!(manifest.tokenizer(), tokenizer.text().tokenizer());
                    }
                    assert!(!site.partial().exists());
                }
            }
            digests.dedup();
            assert_eq!(digests.len(), 1, "{tokenizer:?} {split:?}");
        }
    }
}

/// A disk as it was at some moment.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            drop(fs::copy(entry.path(), target))
        }
    }
}

/// Takes a copy of the work each time that something is durable.
struct Snapshots<'a> {
    site: &'a Site,
    taken: Mutex<Vec<PathBuf>>,
}

impl Watch for Snapshots<'_> {
    fn durable(&self, _: u64) {
        let mut taken = self.taken.lock().unwrap();
        let to = self.site.dir.path().join(format!("snapshot{}", taken.len()));
        copy(&self.site.partial(), &to);
        taken.push(to);
    }
}

/// Remembers what was taken up.
#[derive(Default)]
struct Resumed(Mutex<Vec<u64>>);
impl Watch for Resumed {
    fn resumed(&self, tokens: u64) {
        self.0.lock().unwrap().push(tokens);
    }
}

#[test]
fn interrupted_anywhere_it_goes_on_to_the_same_end() {
    let texts = texts();
    let bytes: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    for tokenizer in &tokenizers() {
        for split in [Split::File, Split::Paragraph] {
            let site = Site::new(&bytes);
            let snapshots = Snapshots { site: &site, taken: Mutex::default() };
            let whole = site.run(tokenizer, split, FINE, &snapshots).unwrap();
            let taken = snapshots.taken.into_inner().unwrap();
            assert!(taken.len() > 2, "{tokenizer:?} {split:?}: {}", taken.len());
            for (n, snapshot) in taken.iter().enumerate() {
                fs::remove_dir_all(site.out()).unwrap();
                copy(snapshot, &site.partial());
                // What was written after the state was.
                let shard = site.partial().join(DATA).join("tokens-00000.bin");
                let mut torn = fs::read(&shard).unwrap();
                torn.extend(vec![0xaa; n % 9]);
                fs::write(&shard, torn).unwrap();
                fs::write(site.partial().join(DATA).join("tokens-00001.bin"), b"torn").unwrap();
                let resumed = Resumed::default();
                let again = site.run(tokenizer, split, (64, 1 << 30), &resumed).unwrap();
                assert_eq!(again, whole, "after {n}");
                assert_eq!(resumed.0.into_inner().unwrap().len(), 1);
                assert_eq!(Dataset::open(&site.out()).unwrap().manifest(), &whole);
                assert!(!site.out().join("tokens-00001.bin").exists() && !site.partial().exists());
            }
        }
    }
}

#[test]
fn other_inputs_or_options_are_noticed() {
    let texts = texts();
    let bytes: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let gpt2 = Tokenizer::gpt2().unwrap();
    let mut site = Site::new(&bytes);
    let snapshots = Snapshots { site: &site, taken: Mutex::default() };
    site.run(&gpt2, Split::File, FINE, &snapshots).unwrap();
    let last = snapshots.taken.into_inner().unwrap().pop().unwrap();
    fs::remove_dir_all(site.out()).unwrap();
    copy(&last, &site.partial());

    let options = site.run(&Tokenizer::bytes(), Split::File, FINE, &Quiet).unwrap_err().to_string();
    assert!(options.starts_with("--tokenizer is not") && options.contains("--restart"), "{options}");
    let options = site.run(&gpt2, Split::Line, FINE, &Quiet).unwrap_err().to_string();
    assert!(options.starts_with("--split is not"), "{options}");

    // One byte of the first file, with its old date.
    let first = site.inputs[0].clone();
    let date = fs::metadata(&first).unwrap().modified().unwrap();
    let mut changed = bytes[0].to_vec();
    changed[3] ^= 1;
    fs::write(&first, &changed).unwrap();
    File::options().write(true).open(&first).unwrap().set_modified(date).unwrap();
    let error = site.run(&gpt2, Split::File, FINE, &Quiet).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    fs::write(&first, &bytes[0][1..]).unwrap();
    let error = site.run(&gpt2, Split::File, FINE, &Quiet).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    fs::write(&first, bytes[0]).unwrap();

    let given = std::mem::take(&mut site.inputs);
    site.inputs = given[..1].to_vec();
    let error = site.run(&gpt2, Split::File, FINE, &Quiet).unwrap_err();
    assert!(matches!(error, Error::Fewer(_)), "{error}");
    site.inputs = given;

    // Damage of what was written, and of the state.
    let shard = site.partial().join(DATA).join("tokens-00000.bin");
    let good = fs::read(&shard).unwrap();
    let mut bad = good.clone();
    bad[0] ^= 1;
    fs::write(&shard, bad).unwrap();
    let error = site.run(&gpt2, Split::File, FINE, &Quiet).unwrap_err();
    assert!(matches!(error, Error::State { .. }), "{error}");
    fs::write(&shard, &good).unwrap();
    let state = site.partial().join(state::STATE_FILE);
    let kept = fs::read(&state).unwrap();
    fs::write(&state, b"{}").unwrap();
    let error = site.run(&gpt2, Split::File, FINE, &Quiet).unwrap_err().to_string();
    assert!(error.contains("state.json") && error.contains("--restart"), "{error}");
    fs::write(&state, kept).unwrap();

    // After all of that, it still goes on; and --restart begins anew.
    let mut before = Vec::new();
    for restart in [Restart::No, Restart::Yes] {
        let resumed = Resumed::default();
        let out = site.out();
        let job = Job {
            inputs: &site.inputs,
            out: &out,
            tokenizer: &gpt2,
            split: Split::File,
            threads: 2,
            restart,
        };
        before.push(prepare(&job, &resumed).unwrap());
        assert_eq!(resumed.0.into_inner().unwrap().len(), usize::from(restart == Restart::No));
        fs::remove_dir_all(site.out()).unwrap();
        copy(&last, &site.partial());
    }
    assert_eq!(before[0], before[1]);
}

#[test]
fn errors_name_file_and_byte_and_leave_nothing() {
    let gpt2 = Tokenizer::gpt2().unwrap();
    let file = Tokenizer::parse(byte_level()).unwrap();
    let fails = |files: &[&[u8]], tokenizer: &Tokenizer, split: Split, step: usize| {
        let site = Site::new(files);
        let error = site.run(tokenizer, split, (step, 1 << 30), &Quiet).unwrap_err().to_string();
        assert!(!site.out().exists() && !site.partial().exists(), "{error}");
        error
    };
    let bad = [b"good words here\n".repeat(100), b"\xc3\x28 and so on".to_vec()].concat();
    for step in [16, 1000, 1 << 20] {
        let error = fails(&[b"fine", &bad], &gpt2, Split::File, step);
        assert!(error.contains("in1: byte 1600: not UTF-8"), "{error}");
    }
    let error = fails(&[b"x\xff"], &file, Split::Line, 1);
    assert!(error.contains("in0: byte 1: not UTF-8"), "{error}");
    let long = "a".repeat(2 << 20);
    let error = fails(&[b"fine ", long.as_bytes()], &gpt2, Split::File, STEP);
    assert!(error.contains("in1: byte 0: more than 524288 bytes"), "{error}");
    let error = fails(&[long.as_bytes()], &file, Split::File, STEP);
    assert!(error.contains("one document") && error.contains("--split paragraph"), "{error}");
    let error = fails(&[long.as_bytes()], &file, Split::Line, STEP);
    assert!(error.contains("no newline"), "{error}");
    assert!(fails(&[b"", b""], &gpt2, Split::File, STEP).contains("not empty"));
    assert!(fails(&[b"x"], &Tokenizer::bytes(), Split::File, STEP).contains("1 tokens"));

    let site = Site { dir: tempfile::tempdir().unwrap(), inputs: vec!["/none".into()] };
    let error = site.run(&gpt2, Split::File, COARSE, &Quiet).unwrap_err().to_string();
    assert!(error.contains("/none"), "{error}");
    let site = Site { dir: tempfile::tempdir().unwrap(), inputs: vec!["/".into()] };
    assert!(site.run(&gpt2, Split::File, COARSE, &Quiet).is_err());
}

#[test]
fn what_is_there_is_left_alone() {
    let site = Site::new(&[b"some text"]);
    let bytes = Tokenizer::bytes();
    let made = site.run(&bytes, Split::File, COARSE, &Quiet).unwrap();
    assert_eq!(muster_trainer::dataset::prepare(&site.inputs, &site.dir.path().join("same")).unwrap(), made);
    assert_eq!(site.run(&bytes, Split::File, COARSE, &Quiet).unwrap(), made, "again is fine");
    fs::write(&site.inputs[0], "other text").unwrap();
    let error = site.run(&bytes, Split::File, COARSE, &Quiet).unwrap_err();
    assert!(matches!(error, Error::Dataset(dataset::Error::Exists(_))), "{error}");
    assert_eq!(Dataset::open(&site.out()).unwrap().manifest(), &made);

    // Two at once would write into each other's files.
    fs::create_dir_all(site.partial()).unwrap();
    let held = File::open(site.partial()).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(matches!(site.run(&bytes, Split::File, COARSE, &Quiet), Err(Error::Busy(_))));
}

#[test]
fn a_tokenizers_file_is_part_of_the_dataset() {
    let site = Site::new(&[b"the words", b"and more"]);
    let tokenizer = Tokenizer::parse(byte_level()).unwrap().ending_with("</s>").unwrap();
    let made = site.run(&tokenizer, Split::File, COARSE, &Quiet).unwrap();
    assert_eq!(made.files().len(), 2);
    assert_eq!(Dataset::tokenizer_json(&site.out(), &made).unwrap(), Some(byte_level()));
    fs::write(site.out().join(TOKENIZER_FILE), "{}").unwrap();
    let error = Dataset::tokenizer_json(&site.out(), &made).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json is corrupt"), "{error}");
    // Where one only trains, it need not be.
    fs::remove_file(site.out().join(TOKENIZER_FILE)).unwrap();
    assert_eq!(read(&site.out()).iter().filter(|token| **token == 260).count(), 2);
}
