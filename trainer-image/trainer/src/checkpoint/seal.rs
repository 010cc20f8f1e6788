//! From files to a manifest: the one place where a checkpoint's digests and StateRoot are computed, from the bytes on
//! the disk, by a worker of `muster local` and by the sidecar of a pod.
//!
//! Each file is read once, through SHA-256 and tensor by tensor at the same time. No more than a block, and 64 rows or columns of
//! one matrix, is in memory, for the sidecar's share of it is small and fixed, whatever the model.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use muster_numerics::graph::Graph;
use muster_proof::Digest;
use muster_sha256::Stream;

use super::{
    CONFIG_FILE, Error, FileEntry, INDEX_FILE, Layout, Manifest, Scalars, TensorFile, graph_of, model_of,
    read_manifest,
};
use crate::files::{self, Named as _};

/// Bytes in memory at a time: what a core's own cache holds beside the tiles being hashed.
const BLOCK: usize = 256 << 10;

/// The manifest of the files in `dir`, which are those of a checkpoint of this graph's model. Writes nothing.
///
/// # Errors
/// [`Error::Read`], [`Error::Corrupt`] naming the file that is not what a checkpoint has.
pub fn seal(dir: &Path, graph: &Graph, scalars: &Scalars) -> Result<Manifest, Error> {
    seal_files(dir, &Layout::of(graph)?, scalars)
}

/// [`seal`] for files that lie like this.
pub(super) fn seal_files(dir: &Path, layout: &Layout, scalars: &Scalars) -> Result<Manifest, Error> {
    // Who starts from the checkpoint refuses any other spelling, and any other model.
    model_of(dir)?;
    let (roots, tensors) = read(dir, layout, BLOCK)?;
    let products = scalars.beta_products();
    let state_root = layout.state_root(scalars.step(), products, &roots)?;
    let mut entries = Vec::new();
    for name in [CONFIG_FILE].into_iter().chain(layout.index().map(|_| INDEX_FILE)) {
        let (sha256, size) = files::digest(&dir.join(name)).map_err(Error::Read)?;
        entries.push(FileEntry { path: name.into(), size, sha256 });
    }
    entries.extend(tensors);
    Manifest::new(scalars.step(), scalars.training_digest(), state_root, products, entries)
        .map_err(Error::State)
}

/// The StateRoot of the tensors in the checkpoint directory `dir`, of whatever model its `config.json` describes, after the step that
/// its manifest says. For who has taken the files' digests already: those in the manifest are not looked at.
///
/// # Errors
/// As [`seal`], and [`Error::Missing`].
pub fn root_of(dir: &Path) -> Result<Digest, Error> {
    let (manifest, _) = read_manifest(dir)?;
    let (_, graph) = graph_of(dir)?;
    let layout = Layout::of(&graph)?;
    let (roots, _) = read(dir, &layout, BLOCK)?;
    layout.state_root(manifest.step(), manifest.beta_products(), &roots)
}

/// The roots of all parts in their order, and the files of tensors. None is read before all have the length and the header that they
/// must have.
fn read(dir: &Path, layout: &Layout, block: usize) -> Result<(Vec<Digest>, Vec<FileEntry>), Error> {
    if let Some(want) = layout.index() {
        let path = dir.join(INDEX_FILE);
        let there = files::read_at_most(&path, want.len() as u64).map_err(Error::Read)?;
        if there != want {
            return Err(Error::corrupt(&path, "does not say where the model's tensors are"));
        }
    }
    let files: Vec<_> =
        layout.files().iter().map(|file| Opened::open(dir, file)).collect::<Result<_, _>>()?;
    let (mut roots, mut entries) = (Vec::with_capacity(layout.parts().len()), Vec::new());
    for file in files {
        let mut sha = Stream::default();
        sha.update(&file.want.header);
        for (place, part) in layout.parts_of(file.want) {
            let mut hasher = part.hasher()?;
            file.read(part.range.clone(), block, |bytes| hasher.update_with(bytes, &mut sha))?;
            roots.push((place, hasher.finish()?));
        }
        let sha256 = Digest::from_bytes(sha.finish());
        entries.push(FileEntry { path: file.want.name.to_string(), size: file.want.size, sha256 });
    }
    roots.sort_by_key(|(place, _)| *place);
    Ok((roots.into_iter().map(|(_, root)| root).collect(), entries))
}

/// A file of tensors that has the length and the header that it must have.
struct Opened<'l> {
    file: File,
    path: PathBuf,
    want: &'l TensorFile,
}

impl<'l> Opened<'l> {
    fn open(dir: &Path, want: &'l TensorFile) -> Result<Self, Error> {
        let path = dir.join(&*want.name);
        let file = File::open(&path).named("open", &path).map_err(Error::Read)?;
        let size = file.metadata().named("inspect", &path).map_err(Error::Read)?.len();
        let mut there = vec![0; want.header.len()];
        if size != want.size || file.read_exact_at(&mut there, 0).is_err() || there != want.header {
            return Err(Error::corrupt(&path, "does not hold the model's tensors, and only them"));
        }
        Ok(Self { file, path, want })
    }

    /// Gives the bytes of `range` to `each`, a block at a time.
    fn read(
        &self,
        range: Range<u64>,
        block: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            bytes.resize(block.min(left), 0);
            self.file.read_exact_at(&mut bytes, at).named("read", &self.path).map_err(Error::Read)?;
            each(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, job, model, records, state};
    use super::super::{FILES, hand_over, save};
    use super::*;
    use crate::resolved;

    /// What the sidecar computes from a hand-over is what a worker without one computes, and what the values in memory
    /// give, whatever the size of the blocks.
    #[test]
    fn a_hand_over_becomes_the_checkpoint_that_the_worker_would_have_written() {
        let dir = tempfile::tempdir().unwrap();
        let (own, handed) = (dir.path().join("own"), dir.path().join("handed"));
        let saved = save(&own, &model(), &graph(), job(), &state(3)).unwrap();
        hand_over(&handed, &model(), &graph(), job(), &state(3), &records(3)).unwrap();
        let scalars =
            Scalars::parse(&std::fs::read(handed.join(super::super::SCALARS_FILE)).unwrap()).unwrap();
        let manifest = seal(&handed, &graph(), &scalars).unwrap();
        assert_eq!(Digest::of(&manifest.to_bytes().unwrap()), saved.manifest);
        let want = resolved::state_root(&graph(), &state(3)).unwrap();
        assert_eq!((manifest.state_root(), saved.state_root), (want, want));
        assert_eq!(root_of(&own).unwrap(), want);
        let layout = Layout::of(&graph()).unwrap();
        for block in [1, 4, 7, 250, 2000] {
            let (roots, files) = read(&handed, &layout, block).unwrap();
            let root = layout.state_root(scalars.step(), scalars.beta_products(), &roots).unwrap();
            assert_eq!((root, &files[..]), (want, &manifest.files()[1..]), "{block}");
            for file in files {
                let bytes = std::fs::read(handed.join(&file.path)).unwrap();
                assert_eq!((file.sha256, file.size), (Digest::of(&bytes), bytes.len() as u64), "{block}");
            }
        }
    }

    #[test]
    fn damage_is_named_and_never_sealed_as_the_same_state() {
        let dir = tempfile::tempdir().unwrap();
        let handed = dir.path().join("handed");
        hand_over(&handed, &model(), &graph(), job(), &state(3), &records(3)).unwrap();
        let scalars = Scalars::of(job(), &state(3));
        let good = seal(&handed, &graph(), &scalars).unwrap();
        for name in FILES {
            let path = handed.join(name);
            let bytes = std::fs::read(&path).unwrap();
            for bad in [&bytes[..bytes.len() - 4], &[&bytes[..], b" "].concat(), b""] {
                std::fs::write(&path, bad).unwrap();
                let error = seal(&handed, &graph(), &scalars).unwrap_err();
                assert!(error.is_damage() && error.to_string().contains(name), "{error}");
            }
            let mut flipped = bytes.clone();
            *flipped.last_mut().unwrap() ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            // A flipped value is another state; a flipped configuration is none.
            assert!(seal(&handed, &graph(), &scalars).ok().is_none_or(|other| other != good), "{name}");
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(seal(&handed, &graph(), &scalars).unwrap(), good);
    }
}
