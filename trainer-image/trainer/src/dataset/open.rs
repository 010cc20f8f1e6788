//! Reading a dataset: everything is checked once, then samples are read where they lie.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use muster_proof::Digest;
use muster_proof::merkle::TreeHasher;
use sha2::{Digest as _, Sha256};

use super::{CHUNK_BYTES, Error, MANIFEST_FILE, MAX_MANIFEST, MAX_TOKENIZER, Manifest, SHARD_BYTES};
use crate::files::{self, FileError, Named as _};

/// An open, verified dataset. Samples are read by position from the files, so a stream larger than the memory is
/// fine.
#[derive(Debug)]
pub struct Dataset {
    manifest: Manifest,
    files: Vec<(PathBuf, File)>,
}

impl Dataset {
    /// Opens the dataset directory `dir` after checking the manifest, every file's size and SHA-256, the Merkle
    /// root, and that every token is below the vocabulary.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Manifest`], [`Error::Corrupt`] naming the file, [`Error::File`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let bytes = match files::read_at_most(&dir.join(MANIFEST_FILE), MAX_MANIFEST) {
            Err(error) if error.is_missing() => return Err(Error::Missing(dir.display().to_string())),
            other => other?,
        };
        let manifest = Manifest::parse(&bytes)?;
        let mut tree = TreeHasher::new();
        let mut open = Vec::with_capacity(manifest.shards().len());
        for shard in manifest.shards() {
            let path = dir.join(&shard.path);
            let file = File::open(&path).named("open", &path)?;
            let size = file.metadata().named("inspect", &path)?.len();
            if size != shard.size {
                let problem = format!("has {size} bytes, the manifest says {}", shard.size);
                return Err(Error::corrupt(&path, problem));
            }
            let sha256 = check_file(&file, &path, &manifest, &mut tree)?;
            if sha256 != shard.sha256 {
                let problem = format!("its digest is {sha256}, the manifest says {}", shard.sha256);
                return Err(Error::corrupt(&path, problem));
            }
            open.push((path, file));
        }
        if tree.root() != manifest.root() {
            let problem = format!("root: is {}, the stream's is {}", manifest.root(), tree.root());
            return Err(Error::corrupt(&dir.join(MANIFEST_FILE), problem));
        }
        Ok(Self { manifest, files: open })
    }

    /// The bytes of the dataset's `tokenizer.json`, if it has one, checked against the manifest. Training needs none, and
    /// where one only trains it may be absent.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::File`] naming the file.
    pub fn tokenizer_json(dir: &Path, manifest: &Manifest) -> Result<Option<Vec<u8>>, Error> {
        let Some(entry) = manifest.tokenizer_file() else { return Ok(None) };
        let path = dir.join(&entry.path);
        let bytes = files::read_at_most(&path, MAX_TOKENIZER)?;
        let digest = Digest::of(&bytes);
        if digest != entry.sha256 {
            let problem = format!("its digest is {digest}, the manifest says {}", entry.sha256);
            return Err(Error::corrupt(&path, problem));
        }
        Ok(Some(bytes))
    }

    /// The checked manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many samples of `context` tokens there are: each needs the token after its last as a target.
    pub fn samples(&self, context: u64) -> u64 {
        (self.manifest.tokens() - 1).checked_div(context).unwrap_or(0)
    }

    /// Fills `out` with the tokens from `start` on.
    ///
    /// # Errors
    /// [`Error::Corrupt`] beyond the end, [`Error::File`] when a file shrank or cannot be read.
    pub fn read(&self, start: u64, out: &mut [u32]) -> Result<(), Error> {
        let end = start.saturating_add(out.len() as u64);
        if end > self.manifest.tokens() {
            let problem =
                format!("tokens {start} to {end} were asked for, it has {}", self.manifest.tokens());
            return Err(Error::Corrupt { path: MANIFEST_FILE.into(), problem });
        }
        let dtype = self.manifest.dtype();
        let (mut at, mut rest) = (start * dtype.bytes(), out);
        let mut bytes = Vec::new();
        while !rest.is_empty() {
            // In range by the check above: `at` is inside the stream whose files were all opened.
            let (index, offset) = ((at / SHARD_BYTES) as usize, at % SHARD_BYTES);
            let (path, file) = &self.files[index];
            let here = ((SHARD_BYTES - offset) / dtype.bytes()).min(rest.len() as u64) as usize;
            bytes.resize(here * dtype.bytes() as usize, 0);
            file.read_exact_at(&mut bytes, offset).map_err(|e| FileError::new("read", path, e))?;
            let (now, later) = rest.split_at_mut(here);
            for (token, read) in now.iter_mut().zip(dtype.tokens(&bytes)) {
                *token = read;
            }
            at += bytes.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

/// Hashes one file twice over, as a file and as leaves of the stream, and looks at every token.
fn check_file(
    mut file: &File,
    path: &Path,
    manifest: &Manifest,
    tree: &mut TreeHasher,
) -> Result<Digest, Error> {
    let (vocabulary, dtype) = (manifest.vocabulary(), manifest.dtype());
    let mut sha = Sha256::new();
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let mut at = 0;
    loop {
        chunk.clear();
        file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk).named("read", path)?;
        if chunk.is_empty() {
            return Ok(Digest::from_bytes(sha.finalize().into()));
        }
        sha.update(&chunk);
        tree.push(&chunk);
        for (i, token) in dtype.tokens(&chunk).enumerate() {
            if token >= vocabulary {
                let problem = format!("token {} is {token}, the vocabulary has {vocabulary}", at + i);
                return Err(Error::corrupt(path, problem));
            }
        }
        at += chunk.len() / dtype.bytes() as usize;
    }
}
