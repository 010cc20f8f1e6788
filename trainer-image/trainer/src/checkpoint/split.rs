//! Which tensors lie in which file: the weights in one and the moments in another, or each in several of about a GiB, as
//! Hugging Face names them.

use std::collections::BTreeMap;
use std::ops::Range;

use muster_numerics::graph::Graph;
use muster_proof::jcs;
use muster_proof::tensor::Role;
use serde_json::json;

use super::names::{self, Place};
use super::{CONFIG_FILE, Error, INDEX_FILE};
use crate::safetensors::Header;

/// Values of more bytes than this are cut into several files, as equal as tensors allow, each of at most this and a tensor.
pub(crate) const LIMIT: u64 = 1 << 30;

/// What the names of files begin with, and which prefix of keys stands for which role there.
const STEMS: [(&str, &[(&str, Role)]); 2] = [
    ("model", &[("", Role::Weight)]),
    ("optimizer", &[("m.", Role::FirstMoment), ("v.", Role::SecondMoment)]),
];

/// A file of tensors as a model of one shape has it.
#[derive(Debug, Clone)]
pub(crate) struct Planned<'g> {
    pub name: String,
    pub header: Header,
    /// Its tensors in the order of their bytes.
    pub places: Vec<(Role, Place<'g>)>,
}

/// The files of tensors of a model, with at most about `limit` bytes of values in each.
///
/// # Errors
/// [`Error::State`] for a graph whose tensors have no names in files.
pub(crate) fn files(graph: &Graph, limit: u64) -> Result<Vec<Planned<'_>>, Error> {
    let mut files = Vec::new();
    for (stem, roles) in STEMS {
        let prefixes: Vec<&str> = roles.iter().map(|(prefix, _)| *prefix).collect();
        let mut places = names::places(graph, &prefixes)?;
        let sizes: Vec<u64> = places.iter().map(|(_, place)| 4 * place.tensor.elements() as u64).collect();
        let groups = cut(&sizes, limit);
        let count = groups.len();
        for (number, group) in (1..).zip(groups) {
            let own: Vec<_> = places.drain(..group.len()).collect();
            let header = names::header(&own)?;
            let role = |prefix: usize| roles.get(prefix).map_or(Role::Weight, |(_, role)| *role);
            let places = own.into_iter().map(|(prefix, place)| (role(prefix), place)).collect();
            files.push(Planned { name: file_name(stem, number, count), header, places });
        }
    }
    Ok(files)
}

/// Cuts a row of sizes into as few runs of at most about `limit` as there can be, each as near to its share as can be.
fn cut(sizes: &[u64], limit: u64) -> Vec<Range<usize>> {
    let total: u128 = sizes.iter().map(|size| u128::from(*size)).sum();
    let runs = total.div_ceil(u128::from(limit.max(1))).max(1);
    let (mut groups, mut first, mut before, mut run) = (Vec::new(), 0, 0, 0);
    for (i, size) in sizes.iter().enumerate() {
        // The run that its middle lies in.
        let middle = 2 * before + u128::from(*size);
        let its = middle * runs / (2 * total.max(1));
        if its > run && i > first {
            groups.push(first..i);
            first = i;
        }
        run = its;
        before += u128::from(*size);
    }
    groups.push(first..sizes.len());
    groups
}

/// The name of a file of tensors, with its number from 1 where there are several.
pub(crate) fn file_name(stem: &str, number: usize, count: usize) -> String {
    if count == 1 {
        format!("{stem}.safetensors")
    } else {
        format!("{stem}-{number:05}-of-{count:05}.safetensors")
    }
}

/// `model.safetensors.index.json`, which says in which file each of the weights is; `None` if there is one only.
///
/// # Errors
/// [`Error::State`] for more bytes than JSON counts.
pub(crate) fn index(files: &[Planned<'_>]) -> Result<Option<Vec<u8>>, Error> {
    let weights = files.iter().filter(|file| file.places.iter().any(|(role, _)| *role == Role::Weight));
    let (mut map, mut total, mut count) = (BTreeMap::new(), 0, 0);
    for file in weights {
        count += 1;
        for entry in file.header.entries() {
            map.insert(&entry.name, &file.name);
            total += entry.end - entry.start;
        }
    }
    if count < 2 {
        return Ok(None);
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    jcs::to_vec(&index).map(Some).map_err(|error| Error::State(error.to_string()))
}

/// Whether these are, in order, the names of the files of some checkpoint.
pub(super) fn are_names<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    let mut names = names.into_iter().peekable();
    if names.next() != Some(CONFIG_FILE) {
        return false;
    }
    let has_index = names.next_if_eq(&INDEX_FILE).is_some();
    for (stem, _) in STEMS {
        let Some(count) = names.peek().and_then(|name| count_of(stem, name)) else { return false };
        if stem == "model" && has_index != (count > 1) {
            return false;
        }
        if !(1..=count).all(|number| names.next() == Some(&file_name(stem, number, count))) {
            return false;
        }
    }
    names.next().is_none()
}

/// How many files the first of them says there are.
fn count_of(stem: &str, name: &str) -> Option<usize> {
    if name == file_name(stem, 1, 1) {
        return Some(1);
    }
    let rest = name.strip_prefix(stem)?.strip_prefix("-00001-of-")?;
    rest.strip_suffix(".safetensors")?.parse().ok().filter(|count| *count > 1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{graph, llama};
    use super::*;

    #[test]
    fn a_row_is_cut_into_shares() {
        for (sizes, limit) in [(&[3, 3, 3][..], 9), (&[100], 10), (&[], 10)] {
            assert_eq!(cut(sizes, limit), vec![Range { start: 0, end: sizes.len() }]);
        }
        assert_eq!(cut(&[3, 3, 3, 1], 9), [0..2, 2..4]);
        assert_eq!(cut(&[1; 10], 4), [0..3, 3..7, 7..10]);
        // One that is too large is alone, and nobody is left without.
        assert_eq!(cut(&[1, 100, 1, 1], 10), [0..1, 1..2, 2..4]);
        for limit in 1..40 {
            let sizes: Vec<u64> = (0..30).map(|i| i * 7 % 11 + 1).collect();
            let groups = cut(&sizes, limit);
            assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[0].is_empty()));
            assert_eq!((groups[0].start, groups.last().unwrap().end), (0, 30));
            let largest = groups.iter().map(|group| sizes[group.clone()].iter().sum::<u64>()).max().unwrap();
            assert!(largest <= limit + 11, "{limit}: {groups:?}");
        }
    }

    #[test]
    fn every_tensor_is_in_one_file_and_the_index_finds_it() {
        for graph in [graph(), llama()] {
            let whole = files(&graph, LIMIT).unwrap();
            assert_eq!(whole.len(), 2);
            assert_eq!(index(&whole).unwrap(), None);
            let split = files(&graph, 4000).unwrap();
            let keys = |files: &[Planned<'_>]| -> Vec<String> {
                files.iter().flat_map(|file| file.header.entries()).map(|entry| entry.name.clone()).collect()
            };
            assert!(split.len() > 4 && keys(&split) == keys(&whole), "{}", split.len());
            let index: serde_json::Value = serde_json::from_slice(&index(&split).unwrap().unwrap()).unwrap();
            let map = index["weight_map"].as_object().unwrap();
            let weights = split.iter().filter(|file| file.name.starts_with("model"));
            for entry in weights.flat_map(|file| file.header.entries().iter().map(move |e| (e, &file.name))) {
                assert_eq!(map[&entry.0.name], **entry.1);
            }
            assert_eq!(index["metadata"]["total_size"], 4 * graph.parameters());
            let names = split.iter().map(|file| file.name.as_str());
            assert!(are_names([CONFIG_FILE, INDEX_FILE].into_iter().chain(names.clone())));
            assert!(!are_names([CONFIG_FILE].into_iter().chain(names)));
        }
    }

    #[test]
    fn other_names_are_none() {
        let model = ["model.safetensors"];
        let two = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let moments = ["optimizer.safetensors"];
        assert!(are_names([&[CONFIG_FILE][..], &model, &moments].concat()));
        assert!(are_names([&[CONFIG_FILE, INDEX_FILE][..], &two, &moments].concat()));
        for names in [
            vec![],
            vec![CONFIG_FILE],
            [&[CONFIG_FILE][..], &model].concat(),
            [&[CONFIG_FILE][..], &moments, &model].concat(),
            [&[CONFIG_FILE, INDEX_FILE][..], &model, &moments].concat(),
            [&[CONFIG_FILE][..], &two, &moments].concat(),
            [&[CONFIG_FILE, INDEX_FILE][..], &two[..1], &moments].concat(),
            [&[CONFIG_FILE, INDEX_FILE][..], &two, &two, &moments].concat(),
            [&[CONFIG_FILE][..], &model, &moments, &moments].concat(),
            [&[CONFIG_FILE][..], &["../model.safetensors"], &moments].concat(),
            [&[CONFIG_FILE, INDEX_FILE][..], &["model-1-of-2.safetensors"], &moments].concat(),
            [&[CONFIG_FILE, INDEX_FILE][..], &["model-00001-of-+0002.safetensors"], &moments].concat(),
            [&[CONFIG_FILE, INDEX_FILE][..], &["model-00001-of-99999999999999999999.safetensors"], &moments]
                .concat(),
        ] {
            assert!(!are_names(names.iter().copied()), "{names:?}");
        }
    }
}
