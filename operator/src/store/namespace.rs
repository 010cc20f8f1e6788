//! A namespace as the store knows it: its name and the uid that it has as long as it lives. Whoever makes a namespace of the
//! same name later has another uid, and so none of what the earlier one had.
use std::fmt;
use std::io::{self, ErrorKind};

use super::Store;
use super::catalogue::is_dns_label;

/// See the module. Both parts are fit to be parts of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace {
    name: String,
    uid: String,
}

impl Namespace {
    /// The namespace of this name with this `metadata.uid`.
    ///
    /// # Errors
    /// `InvalidInput` if the name is no DNS label or the uid none.
    pub fn new(name: &str, uid: &str) -> io::Result<Self> {
        let wrong = |text: String| Err(io::Error::new(ErrorKind::InvalidInput, text));
        if !is_dns_label(name) {
            return wrong(format!("{name:?} is not the name of a namespace"));
        }
        if !is_uid(uid) {
            return wrong(format!("{uid:?} is not the uid of an object"));
        }
        Ok(Self { name: name.to_owned(), uid: uid.to_owned() })
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Where everything of it is.
    pub(super) fn folder(&self) -> String {
        format!("catalogue/{}/{}", self.name, self.uid)
    }
}

/// People know a namespace by its name.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Whether the text has the form of a `metadata.uid`.
pub(super) fn is_uid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

impl Store {
    /// Namespaces that have put something or have a dataset, living or not, sorted.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn namespaces(&self) -> io::Result<Vec<Namespace>> {
        let mut found = Vec::new();
        for name in self.backend.folders("catalogue").await?.iter().filter(|name| is_dns_label(name)) {
            let uids = self.backend.folders(&format!("catalogue/{name}")).await?;
            found.extend(uids.iter().filter_map(|uid| Namespace::new(name, uid).ok()));
        }
        Ok(found)
    }

    /// Forgets datasets and puts of a namespace that is gone; blobs that nothing else leads to go with the next garbage
    /// collection.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn forget_namespace(&self, namespace: &Namespace) -> io::Result<()> {
        self.backend.remove_tree(&namespace.folder()).await
    }
}
