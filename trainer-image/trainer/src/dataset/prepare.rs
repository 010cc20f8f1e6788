//! From text files to a dataset.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use muster_proof::merkle::TreeHasher;

use super::manifest::shard_name;
use super::{CHUNK_BYTES, Dataset, Error, MANIFEST_FILE, Manifest, SHARD_BYTES, Shard};
use crate::files::{DigestedFile, FileError, Named as _, NewDir};

/// Makes the dataset directory `out` from the bytes of `inputs`, one after the other; token = byte. Streams: memory
/// does not grow with the input. `out` appears whole or not at all; if it is there already with the same
/// contents, that is fine.
///
/// # Errors
/// [`Error::Empty`], [`Error::Exists`], [`Error::File`] naming the input or output.
pub fn prepare<P: AsRef<Path>>(inputs: &[P], out: &Path) -> Result<Manifest, Error> {
    prepare_with(inputs, out, &mut |_| {})
}

/// As [`prepare`]; `progress` is told of every few bytes of the inputs that are done.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with<P: AsRef<Path>>(
    inputs: &[P],
    out: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Manifest, Error> {
    let dir = NewDir::create(out)?;
    let mut stream = Stream::new(&dir);
    let mut text = vec![0; 1 << 16];
    for input in inputs {
        let input = input.as_ref();
        let mut file = File::open(input).named("open", input)?;
        loop {
            let n = file.read(&mut text).named("read", input)?;
            if n == 0 {
                break;
            }
            stream.push(&text[..n])?;
            progress(n as u64);
        }
    }
    let manifest = stream.finish()?;
    let mut file = dir.file(MANIFEST_FILE)?;
    file.write(&manifest.to_bytes()?)?;
    file.finish()?;
    if is_occupied(out) {
        return match Dataset::open(out) {
            Ok(there) if there.manifest() == &manifest => Ok(manifest),
            _ => Err(Error::Exists(out.display().to_string())),
        };
    }
    dir.commit()?;
    Ok(manifest)
}

fn is_occupied(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// The token stream being written: files of 64 MiB, and one Merkle tree across them.
struct Stream<'a> {
    dir: &'a NewDir,
    file: Option<DigestedFile>,
    shards: Vec<Shard>,
    chunk: Vec<u8>,
    tree: TreeHasher,
    inputs: u64,
}

impl<'a> Stream<'a> {
    fn new(dir: &'a NewDir) -> Self {
        Self {
            dir,
            file: None,
            shards: Vec::new(),
            chunk: Vec::with_capacity(CHUNK_BYTES),
            tree: TreeHasher::new(),
            inputs: 0,
        }
    }

    fn push(&mut self, text: &[u8]) -> Result<(), Error> {
        self.inputs += text.len() as u64;
        for byte in text {
            self.chunk.extend([*byte, 0]);
            if self.chunk.len() == CHUNK_BYTES {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), FileError> {
        self.tree.push(&self.chunk);
        let mut file = match self.file.take() {
            Some(file) => file,
            None => DigestedFile::new(self.dir.file(&shard_name(self.shards.len()))?),
        };
        file.write(&self.chunk)?;
        self.chunk.clear();
        // A shard is a whole number of chunks, so the check after each chunk is enough.
        if file.size() == SHARD_BYTES {
            self.end_shard(file)?;
        } else {
            self.file = Some(file);
        }
        Ok(())
    }

    fn end_shard(&mut self, file: DigestedFile) -> Result<(), FileError> {
        let (sha256, size) = file.finish()?;
        self.shards.push(Shard { path: shard_name(self.shards.len()), size, sha256 });
        Ok(())
    }

    fn finish(mut self) -> Result<Manifest, Error> {
        if self.inputs < 2 {
            return Err(Error::Empty(self.inputs));
        }
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        if let Some(file) = self.file.take() {
            self.end_shard(file)?;
        }
        Manifest::new(self.tree.root(), self.shards)
    }
}
