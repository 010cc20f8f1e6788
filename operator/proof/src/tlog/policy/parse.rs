//! Reads a policy line by line. Spaces and tabs separate; empty lines and lines that start with `#` are
//! left out. A name is a run of characters that are no spaces, tabs or control characters.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{Group, Log, MAX_PARTS, MAX_POLICY, NONE, Policy, PolicyError, VerifierKey, Witness};
use crate::tlog::decimal;
use crate::tlog::note::Algorithm;

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let whole = |why: String| PolicyError { line: None, why };
        if text.len() > MAX_POLICY {
            return Err(whole(format!("the policy has {} bytes, at most {MAX_POLICY} are read", text.len())));
        }
        let mut reader = Reader::default();
        for (at, line) in text.split('\n').enumerate() {
            reader.line(line).map_err(|why| PolicyError { line: Some(at + 1), why })?;
        }
        let Reader { logs, witnesses, groups, quorum, .. } = reader;
        let none = || whole("the policy has no `quorum` line; `quorum none` asks for no cosignatures".into());
        Ok(Self { logs, witnesses, groups, quorum: quorum.ok_or_else(none)? })
    }
}

/// What the lines so far have defined.
#[derive(Default)]
struct Reader {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    /// The inner `None` is `quorum none`.
    quorum: Option<Option<String>>,
    /// Every witness and group, and whether it is a member of a group.
    names: BTreeMap<String, bool>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return Err("it has a control character; only spaces and tabs separate words".into());
        }
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let Some(keyword) = words.next().filter(|word| !word.starts_with('#')) else { return Ok(()) };
        let words: Vec<&str> = words.collect();
        match (keyword, words.as_slice()) {
            ("log", [key]) => self.log(key, None),
            ("log", [key, url]) => self.log(key, Some(url)),
            ("log", _) => Err("want `log <verifier key> [<url>]`".into()),
            ("witness", [name, key]) => self.witness(name, key, None),
            ("witness", [name, key, url]) => self.witness(name, key, Some(url)),
            ("witness", _) => Err("want `witness <name> <verifier key> [<url>]`".into()),
            ("group", [name, threshold, members @ ..]) if !members.is_empty() => {
                self.group(name, threshold, members)
            }
            ("group", _) => Err("want `group <name> all|any|<k> <member>...`".into()),
            ("quorum", [name]) => self.quorum(name),
            ("quorum", _) => Err("want `quorum <name>` or `quorum none`".into()),
            (other, _) => Err(format!("{other:?} is none of `log`, `witness`, `group`, `quorum`")),
        }
    }

    fn log(&mut self, key: &str, url: Option<&str>) -> Result<(), String> {
        let key = read_key(key, Algorithm::Ed25519)?;
        if self.logs.iter().any(|log| log.key.public() == key.public()) {
            return Err(format!("the key of log {} is there already", key.name()));
        }
        room(self.logs.len(), "logs")?;
        self.logs.push(Log { key, url: url.map(str::to_owned) });
        Ok(())
    }

    fn witness(&mut self, name: &str, key: &str, url: Option<&str>) -> Result<(), String> {
        let key = read_key(key, Algorithm::CosignatureV1)?;
        if let Some(other) = self.witnesses.iter().find(|other| other.key.public() == key.public()) {
            return Err(format!("witness {name:?} has the key of {:?}; one key is one witness", other.name));
        }
        room(self.witnesses.len(), "witnesses")?;
        self.define(name)?;
        self.witnesses.push(Witness { name: name.to_owned(), key, url: url.map(str::to_owned) });
        Ok(())
    }

    fn group(&mut self, name: &str, threshold: &str, members: &[&str]) -> Result<(), String> {
        let number = || decimal(threshold).and_then(|number| usize::try_from(number).ok());
        let threshold = match threshold {
            "all" => Some(members.len()),
            "any" => Some(1),
            _ => number().filter(|number| (1..=members.len()).contains(number)),
        };
        let threshold = threshold.ok_or_else(|| {
            format!("group {name:?} wants `all`, `any` or a number from 1 to {}", members.len())
        })?;
        room(self.groups.len(), "groups")?;
        for member in members {
            match self.names.get_mut(*member) {
                None => {
                    return Err(format!("group {name:?} has member {member:?}, which no line above defines"));
                }
                Some(true) => {
                    return Err(format!("{member:?} is a member of a group already; it counts once"));
                }
                Some(is_member) => *is_member = true,
            }
        }
        self.define(name)?;
        let members = members.iter().map(|&member| member.to_owned()).collect();
        self.groups.push(Group { name: name.to_owned(), threshold, members });
        Ok(())
    }

    fn quorum(&mut self, name: &str) -> Result<(), String> {
        if self.quorum.is_some() {
            return Err("a policy has one `quorum` line, and this is the second".into());
        }
        if name != NONE && !self.names.contains_key(name) {
            return Err(format!("the quorum is {name:?}, which no line above defines"));
        }
        self.quorum = Some((name != NONE).then(|| name.to_owned()));
        Ok(())
    }

    fn define(&mut self, name: &str) -> Result<(), String> {
        if name == NONE {
            return Err("`none` is the name of the empty quorum; choose another".into());
        }
        match self.names.insert(name.to_owned(), false) {
            None => Ok(()),
            Some(_) => Err(format!("the name {name:?} is defined already; witnesses and groups share names")),
        }
    }
}

fn read_key(text: &str, want: Algorithm) -> Result<VerifierKey, String> {
    let key: VerifierKey = text.parse().map_err(|error: super::note::Error| error.to_string())?;
    key.must_be(want).map_err(|error| error.to_string())?;
    Ok(key)
}

fn room(count: usize, what: &str) -> Result<(), String> {
    if count < MAX_PARTS { Ok(()) } else { Err(format!("a policy has at most {MAX_PARTS} {what}")) }
}
