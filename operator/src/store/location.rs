//! Where a store is: a directory, or a bucket and a prefix in it.
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A directory, or a URL that object_store understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket of an object store.
    Bucket(BucketUrl),
}

/// `scheme://bucket/prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// Whose interface.
    pub scheme: Scheme,
    /// The bucket, or container.
    pub bucket: String,
    /// The part of every key before ours, without slashes at its ends; may be empty.
    pub prefix: String,
}

/// Object stores that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `s3`: Amazon's interface, also of others by `AWS_ENDPOINT`.
    S3,
    /// `gs`: Google Cloud Storage.
    Gs,
    /// `az`: Azure Blob Storage.
    Az,
}

/// Why a text is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store {0:?}: a directory, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX")]
pub struct LocationError(String);

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || LocationError(text.to_owned());
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() { Err(wrong()) } else { Ok(Self::Directory(text.into())) };
        };
        let scheme = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            _ => return Err(wrong()),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        // Nothing here may need an escape: the same prefix must always mean the same keys.
        let parts_are_plain = prefix.is_empty()
            || prefix
                .split('/')
                .all(|part| part.bytes().all(plain) && !part.is_empty() && ![".", ".."].contains(&part));
        if bucket.is_empty() || !bucket.bytes().all(plain) || !parts_are_plain {
            return Err(wrong());
        }
        Ok(Self::Bucket(BucketUrl { scheme, bucket: bucket.into(), prefix: prefix.into() }))
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::Directory(path.to_owned())
    }
}

impl From<&Location> for Location {
    fn from(location: &Location) -> Self {
        location.clone()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
        };
        write!(f, "{scheme}://{}/{}", self.bucket, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_buckets_are_told_apart() {
        assert_eq!("/var/lib/muster".parse(), Ok(Location::Directory("/var/lib/muster".into())));
        let Ok(Location::Bucket(url)) = "s3://models/muster/east/".parse() else { panic!() };
        assert_eq!((url.bucket.as_str(), url.prefix.as_str()), ("models", "muster/east"));
        assert_eq!(url.to_string(), "s3://models/muster/east");
        assert!(matches!("gs://b".parse(), Ok(Location::Bucket(BucketUrl { scheme: Scheme::Gs, .. }))));
        for bad in [
            "",
            "ftp://b/p",
            "s3://",
            "s3:///p",
            "s3://b/a//c",
            "s3://b/../c",
            "s3://user:key@b/p",
            "s3://b/a?x",
        ] {
            let error = bad.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{bad}");
        }
    }
}
