//! From files to a dataset whose tokens are their bytes: what tests and benchmarks need, and no more. `muster data prepare`
//! reads any text and goes on where it was cut off.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::manifest::Text;
use super::{Dataset, Error, MANIFEST_FILE, Manifest, Writer};
use crate::files::{Named as _, NewDir};

/// Makes the dataset directory `out` from the bytes of `inputs`, one after the other; token = byte. Streams: memory
/// does not grow with the input. `out` appears whole or not at all; if it is there already with the same
/// contents, that is fine.
///
/// # Errors
/// [`Error::Empty`], [`Error::Exists`], [`Error::File`] naming the input or output.
pub fn prepare<P: AsRef<Path>>(inputs: &[P], out: &Path) -> Result<Manifest, Error> {
    let dir = NewDir::create(out)?;
    let mut writer = Writer::new(dir.path(), Text::bytes());
    let (mut text, mut tokens) = (vec![0; 1 << 16], Vec::new());
    for input in inputs {
        let input = input.as_ref();
        let mut file = File::open(input).named("open", input)?;
        loop {
            let n = file.read(&mut text).named("read", input)?;
            if n == 0 {
                break;
            }
            tokens.clear();
            tokens.extend(text[..n].iter().map(|byte| u32::from(*byte)));
            writer.push(&tokens)?;
        }
    }
    let manifest = writer.finish()?;
    let mut file = dir.file(MANIFEST_FILE)?;
    file.write(&manifest.to_bytes()?)?;
    file.finish()?;
    if is_occupied(out) {
        same_there(out, &manifest)?;
        return Ok(manifest);
    }
    dir.commit()?;
    Ok(manifest)
}

/// Whether something is in the way of a new directory.
pub fn is_occupied(dir: &Path) -> bool {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// Whether what is in `out` is the dataset of this manifest, whole.
///
/// # Errors
/// [`Error::Exists`] if it is anything else.
pub fn same_there(out: &Path, manifest: &Manifest) -> Result<(), Error> {
    match Dataset::open(out) {
        Ok(there) if there.manifest() == manifest => Ok(()),
        _ => Err(Error::Exists(out.display().to_string())),
    }
}
