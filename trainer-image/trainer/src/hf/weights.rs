//! Which file of a directory has which tensor: `model.safetensors`, or shards that an index names. Nothing is read of the values here,
//! and nothing is allocated by a file's word.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::header::{self, Entry};
use super::unique::Unique;
use super::{Error, shown};
use crate::checkpoint::{INDEX_FILE, MODEL_FILE};
use crate::files::{self, FileError, Named as _};
use crate::safetensors::{MAX_HEADER, PREFIX};

/// The longest index that is read, in bytes: about 150 000 tensors.
pub const MAX_INDEX: u64 = 16 << 20;
/// Files that are open at once. The largest published models have 191.
pub(super) const MAX_SHARDS: usize = 512;
/// What others name weights that are not safetensors.
const PICKLES: [&str; 3] = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"];

/// A tensor in one of the files.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    file: usize,
    /// Its place there, counted from the file's beginning.
    pub entry: Entry,
}

/// The tensors of a directory.
#[derive(Debug)]
pub(super) struct Weights {
    files: Vec<(PathBuf, File)>,
    pub tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Reads the headers of all files of `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (single, index) = (dir.join(MODEL_FILE), dir.join(INDEX_FILE));
        match (single.exists(), index.exists()) {
            (true, false) => {
                let mut all = Self { files: Vec::new(), tensors: BTreeMap::new() };
                all.add(single, None)?;
                Ok(all)
            }
            (false, true) => Self::open_shards(dir, &index),
            (true, true) => {
                let text =
                    format!("{MODEL_FILE} and {INDEX_FILE} are both there; remove the one that is not meant");
                Err(Error::refused(dir, text))
            }
            (false, false) => {
                let pickle = PICKLES.iter().find(|name| dir.join(name).exists());
                let why = pickle.map_or(String::new(), |name| {
                    format!(" ({name} is not read: such files may run code; save it again as safetensors)")
                });
                Err(Error::refused(dir, format!("has no {MODEL_FILE} and no {INDEX_FILE}{why}")))
            }
        }
    }

    fn open_shards(dir: &Path, index: &Path) -> Result<Self, Error> {
        let bytes = files::read_regular(index, MAX_INDEX)?;
        let map = parse_index(&bytes).map_err(|problem| Error::refused(index, problem))?;
        let names: BTreeSet<&String> = map.values().collect();
        let mut all = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for name in names {
            all.add(dir.join(name), Some((name, &map)))?;
        }
        match map.keys().find(|key| !all.tensors.contains_key(*key)) {
            Some(key) => {
                let text = format!("tensor {} is not in the file that is named for it", shown(key));
                Err(Error::refused(index, text))
            }
            None => Ok(all),
        }
    }

    /// Reads a file's header. Of a shard, each tensor must be the index's.
    fn add(
        &mut self,
        path: PathBuf,
        shard: Option<(&String, &BTreeMap<String, String>)>,
    ) -> Result<(), Error> {
        let file = files::open_regular(&path)?;
        let size = file.metadata().named("inspect", &path)?.len();
        let refused = |problem: String| Error::refused(&path, problem);
        let mut prefix = [0; PREFIX as usize];
        let behind = size.checked_sub(PREFIX).ok_or_else(|| refused("it ends inside its header".into()))?;
        file.read_exact_at(&mut prefix, 0).named("read", &path)?;
        let length = u64::from_le_bytes(prefix);
        if length > MAX_HEADER || length > behind {
            let text = format!(
                "its header claims {length} bytes; {behind} are there, at most {MAX_HEADER} are read"
            );
            return Err(refused(text));
        }
        let mut json = vec![0; length as usize];
        file.read_exact_at(&mut json, PREFIX).named("read", &path)?;
        let header = header::parse(&json, behind - length).map_err(refused)?;
        let number = self.files.len();
        for (name, mut entry) in header {
            if let Some((file, map)) = shard
                && map.get(&name) != Some(file)
            {
                return Err(refused(format!(
                    "tensor {}: {INDEX_FILE} does not say that it is here",
                    shown(&name)
                )));
            }
            (entry.start, entry.end) = (entry.start + PREFIX + length, entry.end + PREFIX + length);
            self.tensors.insert(name, Tensor { file: number, entry });
        }
        self.files.push((path, file));
        Ok(())
    }

    /// Which file has the tensor.
    pub fn path(&self, tensor: &Tensor) -> &Path {
        self.files.get(tensor.file).map_or(Path::new(""), |(path, _)| path)
    }

    /// Fills `bytes` with those of the tensor from its byte `at` on.
    pub fn read(&self, tensor: &Tensor, at: u64, bytes: &mut [u8]) -> Result<(), FileError> {
        match self.files.get(tensor.file) {
            Some((path, file)) => file.read_exact_at(bytes, tensor.entry.start + at).named("read", path),
            None => Ok(()), // every tensor was made with its file
        }
    }
}

/// Reads an index: which file each tensor is in. The names of files are plain: they lead nowhere else.
///
/// # Errors
/// A sentence that names the member.
pub fn parse_index(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Index {
        #[serde(default, rename = "metadata")]
        _metadata: Option<IgnoredAny>,
        weight_map: Unique<String>,
    }
    let Index { weight_map: Unique(map), .. } =
        serde_json::from_slice(bytes).map_err(|error| format!("not an index: {error}"))?;
    let names: BTreeSet<&String> = map.values().collect();
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(format!(
            "weight_map: {:?} is not the name of a file here: letters, digits, '.', '_', '-', and .safetensors at the end",
            shown(name)
        ));
    }
    if map.is_empty() || names.len() > MAX_SHARDS {
        return Err(format!("weight_map: names {} files; 1 to {MAX_SHARDS} are read", names.len()));
    }
    Ok(map)
}

pub(super) fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    name.len() <= 255 && !name.starts_with('.') && name.ends_with(".safetensors") && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(map: &str) -> Result<BTreeMap<String, String>, String> {
        parse_index(format!("{{\"metadata\":{{\"total_size\":8}},\"weight_map\":{map}}}").as_bytes())
    }

    #[test]
    fn files_of_an_index_lie_beside_it() {
        let map = index(r#"{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}"#);
        assert_eq!(map.unwrap().len(), 2);
        for name in [
            "../model.safetensors",
            "..",
            "/etc/passwd",
            "/model.safetensors",
            "a/model.safetensors",
            "a\\\\model.safetensors",
            ".hidden.safetensors",
            "model.bin",
            "mod\\u0000el.safetensors",
            "",
        ] {
            let error = index(&format!("{{\"a\":\"{name}\"}}")).unwrap_err();
            assert!(error.starts_with("weight_map: ") && error.contains("not the name of a file"), "{error}");
        }
        assert!(
            index(r#"{"a":"m.safetensors","a":"n.safetensors"}"#).unwrap_err().contains("\"a\" occurs twice")
        );
        assert!(index("{}").unwrap_err().contains("names 0 files"));
        let many: Vec<String> = (0..513).map(|i| format!("\"{i}\":\"{i}.safetensors\"")).collect();
        assert!(index(&format!("{{{}}}", many.join(","))).unwrap_err().contains("513 files"));
        for bad in ["", "[]", "{\"weight_map\":{}}x", "{\"weight_map\":[]}", "{\"weight_map\":{},\"more\":1}"]
        {
            parse_index(bad.as_bytes()).unwrap_err();
        }
    }
}
