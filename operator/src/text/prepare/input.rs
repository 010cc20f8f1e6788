//! The files of a dataset as pieces, in order; and what was read of them before, seen to be the same now.
use super::Error;
use super::state::Place;
use crate::text::cut::{Cuts, Split, Unit, cuts, limit};
use crate::text::{EncodeError, MAX_WORD};
use muster_proof::Digest;
use muster_trainer::files::Named;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes that become tokens by themselves.
#[derive(Debug)]
pub struct Piece {
    pub bytes: Vec<u8>,
    pub cuts: Cuts,
    /// Where it begins.
    pub input: usize,
    pub offset: u64,
    /// What has been read with it.
    pub after: Place,
}

/// How the files are read.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub split: Split,
    pub unit: Unit,
    /// Bytes that are read at once.
    pub step: usize,
}

/// See the module.
pub struct Inputs<'a> {
    paths: &'a [PathBuf],
    rules: Rules,
    next: usize,
    open: Option<Open<'a>>,
    /// Over all bytes that pieces were made of, and the length of each file that is done.
    sha: Sha256,
}

struct Open<'a> {
    file: File,
    path: &'a Path,
    /// Of a file that has them, size and time of the last change when it was opened.
    was: Option<(u64, Option<SystemTime>)>,
    /// Bytes that pieces were made of.
    offset: u64,
    rest: Vec<u8>,
    is_all: bool,
}

impl<'a> Inputs<'a> {
    pub fn new(paths: &'a [PathBuf], rules: Rules) -> Self {
        Self { paths, rules, next: 0, open: None, sha: Sha256::new() }
    }

    /// Reads up to `place`, telling `progress` of bytes, and sees that it is what was read before.
    pub fn skip_to(&mut self, place: &Place, progress: &dyn Fn(u64)) -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 20];
        let changed = |path: &Path| Error::Changed { path: path.display().to_string() };
        while self.next < place.inputs {
            let Some(mut open) = self.begin()? else { return Err(Error::Fewer(place.inputs)) };
            loop {
                let n = open.file.read(&mut buffer).named("read", open.path)?;
                if n == 0 {
                    break;
                }
                self.sha.update(&buffer[..n]);
                open.offset += n as u64;
                progress(n as u64);
            }
            self.end(&open)?;
        }
        if place.offset > 0 {
            let Some(mut open) = self.begin()? else { return Err(Error::Fewer(place.inputs + 1)) };
            while open.offset < place.offset {
                let want = (place.offset - open.offset).min(buffer.len() as u64) as usize;
                let n = open.file.read(&mut buffer[..want]).named("read", open.path)?;
                if n == 0 {
                    return Err(changed(open.path));
                }
                self.sha.update(&buffer[..n]);
                open.offset += n as u64;
                progress(n as u64);
            }
            self.open = Some(open);
        }
        let last = self.paths.get(place.inputs).or(self.paths.last());
        let here = self.place();
        if here == *place { Ok(()) } else { Err(changed(last.map_or(Path::new(""), PathBuf::as_path))) }
    }

    /// The next piece; `None` at the end of the last file.
    pub fn next(&mut self) -> Result<Option<Piece>, Error> {
        loop {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => match self.begin()? {
                    Some(open) => open,
                    None => return Ok(None),
                },
            };
            open.fill(self.rules.step)?;
            let cuts = cuts(&open.rest, self.rules.split, self.rules.unit, open.is_all);
            let Some(&end) = cuts.ends.last() else {
                if open.is_all {
                    self.end(&open)?;
                } else {
                    open.check_length(open.rest.len(), self.rules)?;
                    self.open = Some(open);
                }
                continue;
            };
            let starts = std::iter::once(0).chain(cuts.ends.iter().copied());
            for (start, end) in starts.zip(&cuts.ends) {
                if self.rules.split != Split::File || self.rules.unit == Unit::Document {
                    open.check_length(end - start, self.rules)?;
                }
            }
            let rest = open.rest.split_off(end);
            let bytes = std::mem::replace(&mut open.rest, rest);
            self.sha.update(&bytes);
            let (input, offset) = (self.next - 1, open.offset);
            open.offset += bytes.len() as u64;
            if open.is_all && open.rest.is_empty() {
                self.end(&open)?;
            } else {
                self.open = Some(open);
            }
            return Ok(Some(Piece { bytes, cuts, input, offset, after: self.place() }));
        }
    }

    fn begin(&mut self) -> Result<Option<Open<'a>>, Error> {
        let Some(path) = self.paths.get(self.next) else { return Ok(None) };
        let file = File::open(path).named("open", path)?;
        let was = stamp(&file, path)?;
        self.next += 1;
        Ok(Some(Open { file, path, was, offset: 0, rest: Vec::new(), is_all: false }))
    }

    /// A file is done: its length goes into the digest, so that the same bytes in other files are others.
    fn end(&mut self, open: &Open) -> Result<(), Error> {
        if let Some(was) = open.was
            && (stamp(&open.file, open.path)? != Some(was) || was.0 != open.offset)
        {
            return Err(Error::Moving { path: open.path.display().to_string() });
        }
        self.sha.update(open.offset.to_le_bytes());
        Ok(())
    }

    fn place(&self) -> Place {
        let digest = Digest::from_bytes(self.sha.clone().finalize().into());
        match &self.open {
            Some(open) => Place { inputs: self.next - 1, offset: open.offset, digest },
            None => Place { inputs: self.next, offset: 0, digest },
        }
    }
}

/// Of what is no plain file, nothing can be said.
fn stamp(file: &File, path: &Path) -> Result<Option<(u64, Option<SystemTime>)>, Error> {
    let meta = file.metadata().named("inspect", path)?;
    Ok(meta.is_file().then(|| (meta.len(), meta.modified().ok())))
}

impl Open<'_> {
    fn fill(&mut self, step: usize) -> Result<(), Error> {
        if !self.is_all {
            let read =
                self.file.by_ref().take(step as u64).read_to_end(&mut self.rest).named("read", self.path)?;
            self.is_all = read < step;
        }
        Ok(())
    }

    /// Refuses what is too long to become tokens in one piece.
    fn check_length(&self, length: usize, rules: Rules) -> Result<(), Error> {
        if length <= limit(rules.split, rules.unit) {
            return Ok(());
        }
        // Most often it is no text at all.
        let text = match (rules.unit, std::str::from_utf8(&self.rest)) {
            (Unit::Word | Unit::Document, Err(error)) if error.error_len().is_some() => {
                return Err(self.bad(error.valid_up_to(), "not UTF-8; convert it, or use --tokenizer bytes"));
            }
            _ => match (rules.split, rules.unit) {
                (Split::File, Unit::Word) => {
                    return Err(self.bad(
                        0,
                        &format!("more than {MAX_WORD} bytes without a space; break them into lines"),
                    ));
                }
                (Split::File, _) => "the file is one document; give --split paragraph or --split line",
                (Split::Paragraph, _) => "there is no blank line; give --split line",
                (Split::Line, _) => "there is no newline; break the line",
            },
        };
        let limit = limit(rules.split, rules.unit);
        Err(self.bad(0, &format!("a document of more than {limit} bytes: {text}")))
    }

    fn bad(&self, at: usize, problem: &str) -> Error {
        Error::Text {
            path: self.path.display().to_string(),
            error: EncodeError { at: at as u64, problem: problem.into() }.after(self.offset),
        }
    }
}
