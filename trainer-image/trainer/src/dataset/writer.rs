//! The token stream being written: files of 64 MiB, and one Merkle tree across them. It can be made durable at any token and
//! be taken up there by another process.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use muster_proof::Digest;
use muster_proof::merkle::TreeHasher;
use sha2::{Digest as _, Sha256};

use super::manifest::{Text, shard_name};
use super::tokenizer::Dtype;
use super::{CHUNK_BYTES, Error, Manifest, SHARD_BYTES, Shard};
use crate::files::{self, FileError, Named as _};

/// Where a stream was durable: so many tokens, whose root is this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Tokens that are on the disk.
    pub tokens: u64,
    /// Merkle root of their stream.
    pub root: Digest,
}

/// See the module.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    text: Text,
    dtype: Dtype,
    open: Option<Open>,
    shards: Vec<Shard>,
    chunk: Vec<u8>,
    tree: TreeHasher,
    tokens: u64,
    bytes: Vec<u8>,
}

/// The file that is being written.
#[derive(Debug)]
struct Open {
    file: BufWriter<File>,
    path: PathBuf,
    sha: Sha256,
    size: u64,
}

impl Writer {
    /// A stream without tokens, into the directory `dir`, of tokens of this text.
    pub fn new(dir: &Path, text: Text) -> Self {
        Self {
            dir: dir.to_owned(),
            dtype: Dtype::of(text.vocabulary()),
            text,
            open: None,
            shards: Vec::new(),
            chunk: Vec::with_capacity(CHUNK_BYTES),
            tree: TreeHasher::new(),
            tokens: 0,
            bytes: Vec::new(),
        }
    }

    /// Takes up what another writer made durable at `mark`: reads it again, and drops what was written after it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if `dir` does not hold the stream of this mark, [`Error::File`].
    pub fn resume(dir: &Path, text: Text, mark: &Mark) -> Result<Self, Error> {
        let mut writer = Self::new(dir, text);
        let torn = |path: &Path| Error::corrupt(path, "what was written before is not there any more");
        let mut left = mark.tokens.checked_mul(writer.dtype.bytes()).ok_or_else(|| torn(dir))?;
        while left > 0 {
            let size = left.min(SHARD_BYTES);
            let path = dir.join(shard_name(writer.shards.len()));
            let mut file = OpenOptions::new().read(true).write(true).open(&path).named("open", &path)?;
            let mut sha = Sha256::new();
            let mut seen = 0;
            while seen < size {
                let want = (CHUNK_BYTES as u64).min(size - seen);
                let at = writer.chunk.len();
                (&mut file).take(want).read_to_end(&mut writer.chunk).named("read", &path)?;
                let read = &writer.chunk[at..];
                if read.len() as u64 != want {
                    return Err(torn(&path));
                }
                sha.update(read);
                seen += want;
                writer.end_chunk_if_full();
            }
            file.set_len(size).named("write", &path)?;
            writer.open = Some(Open { file: buffered(file), path, sha, size });
            writer.end_file_if_full()?;
            left -= size;
        }
        writer.tokens = mark.tokens;
        if writer.root() != mark.root {
            return Err(torn(dir));
        }
        Ok(writer)
    }

    /// Appends tokens.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a token that is not in the vocabulary, [`Error::File`].
    pub fn push(&mut self, tokens: &[u32]) -> Result<(), Error> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        for &token in tokens {
            if token >= self.text.vocabulary() {
                let problem = format!("token {token} is not below {}", self.text.vocabulary());
                return Err(Error::manifest("vocabulary", problem));
            }
            self.dtype.write(token, &mut bytes);
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // Both bounds are whole numbers of tokens, and a shard is one of chunks.
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - self.chunk.len()));
            self.write(now)?;
            self.chunk.extend(now);
            self.end_chunk_if_full();
            self.end_file_if_full()?;
            rest = later;
        }
        self.tokens += tokens.len() as u64;
        self.bytes = bytes;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let path = self.dir.join(shard_name(self.shards.len()));
                let file = File::create(&path).named("write", &path)?;
                none.insert(Open { file: buffered(file), path, sha: Sha256::new(), size: 0 })
            }
        };
        open.file.write_all(bytes).named("write", &open.path)?;
        open.sha.update(bytes);
        open.size += bytes.len() as u64;
        Ok(())
    }

    fn end_chunk_if_full(&mut self) {
        if self.chunk.len() == CHUNK_BYTES {
            self.tree.push(&self.chunk);
            self.chunk.clear();
        }
    }

    fn end_file_if_full(&mut self) -> Result<(), FileError> {
        match self.open.take_if(|open| open.size == SHARD_BYTES) {
            Some(full) => self.end_file(full),
            None => Ok(()),
        }
    }

    fn end_file(&mut self, mut open: Open) -> Result<(), FileError> {
        open.file.flush().and_then(|()| open.file.get_ref().sync_all()).named("write", &open.path)?;
        let sha256 = Digest::from_bytes(open.sha.finalize().into());
        self.shards.push(Shard { path: shard_name(self.shards.len()), size: open.size, sha256 });
        Ok(())
    }

    /// Merkle root of the stream, if it ended here.
    fn root(&self) -> Digest {
        let mut tree = self.tree.clone();
        if !self.chunk.is_empty() {
            tree.push(&self.chunk);
        }
        tree.root()
    }

    /// Makes all tokens so far durable.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn sync(&mut self) -> Result<Mark, Error> {
        if let Some(open) = &mut self.open {
            open.file.flush().and_then(|()| open.file.get_ref().sync_all()).named("write", &open.path)?;
        }
        files::sync_dir(&self.dir)?;
        Ok(Mark { tokens: self.tokens, root: self.root() })
    }

    /// Ends the stream; its files are durable, the manifest is for the caller to write.
    ///
    /// # Errors
    /// [`Error::Empty`] for fewer than two tokens, [`Error::File`].
    pub fn finish(mut self) -> Result<Manifest, Error> {
        if self.tokens < 2 {
            return Err(Error::Empty(self.tokens));
        }
        if let Some(open) = self.open.take() {
            self.end_file(open)?;
        }
        // What a writer before us had begun beyond the mark.
        let mut beyond = self.dir.join(shard_name(self.shards.len()));
        for index in self.shards.len() + 1.. {
            if !beyond.exists() {
                break;
            }
            fs::remove_file(&beyond).named("remove", &beyond)?;
            beyond = self.dir.join(shard_name(index));
        }
        let root = self.root();
        Manifest::of(&self.text, root, self.shards)
    }
}

fn buffered(file: File) -> BufWriter<File> {
    BufWriter::with_capacity(1 << 18, file)
}
