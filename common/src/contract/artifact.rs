//! Artifacts: what a step leaves behind, and what approval binds (protocol F).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ids::Digest;
use super::limits::{
    ARTIFACT_NAME_MAX_BYTES, ARTIFACT_PART_MAX_BYTES, ARTIFACTS_MAX_COUNT, ARTIFACTS_TOTAL_MAX_BYTES,
};

/// One artifact of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManifestEntry {
    /// File name: no slash, not `.` or `..`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: Digest,
}

/// The list of an attempt's artifacts, sorted by name. What is approved is the digest over it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Manifest(pub Vec<ManifestEntry>);

/// Why a manifest, or the bytes for it, are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// A name that could leave its folder, or is too long.
    #[error(
        "artifact name {0:?} is refused: use 1 to {ARTIFACT_NAME_MAX_BYTES} bytes, no '/', no NUL, not '.' or '..'"
    )]
    Name(String),
    /// Names must be sorted and unique, so that one set of artifacts has one digest.
    #[error("artifact names are not sorted and unique at {0:?}")]
    Order(String),
    /// Too many artifacts.
    #[error("{0} artifacts: at most {ARTIFACTS_MAX_COUNT} are allowed; pack them into one archive")]
    Count(usize),
    /// Too many bytes.
    #[error(
        "artifacts have {bytes} bytes in total: at most {max} are allowed; leave large data in an object store and keep its digest"
    )]
    Total {
        /// Total found, in bytes.
        bytes: u64,
        /// Limit, in bytes.
        max: u64,
    },
    /// A part outside the plan of parts that the manifest gives.
    #[error("artifact part {part} of {name:?} does not belong to the manifest")]
    Part {
        /// The artifact's name.
        name: String,
        /// The part's number, from 0.
        part: u32,
    },
    /// Parts have not arrived.
    #[error("artifact {0:?} is not complete: parts are missing")]
    Missing(String),
    /// The bytes are not those that the manifest names.
    #[error("artifact {0:?} does not match its SHA-256")]
    Digest(String),
}

impl Manifest {
    /// The manifest of `files`, which a map keeps sorted by name.
    pub fn of(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, ArtifactError> {
        let entries = files.iter().map(|(name, bytes)| ManifestEntry {
            name: name.clone(),
            size: bytes.len() as u64,
            sha256: Digest::of(bytes),
        });
        let manifest = Self(entries.collect());
        manifest.check(ARTIFACTS_TOTAL_MAX_BYTES as u64)?;
        Ok(manifest)
    }

    /// Total size in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.0.iter().fold(0, |sum, entry| sum.saturating_add(entry.size))
    }

    /// Checks names, order, count and the total against `total_max_bytes`.
    pub fn check(&self, total_max_bytes: u64) -> Result<(), ArtifactError> {
        if self.0.len() > ARTIFACTS_MAX_COUNT {
            return Err(ArtifactError::Count(self.0.len()));
        }
        for entry in &self.0 {
            check_name(&entry.name)?;
        }
        if let Some(pair) = self.0.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            return Err(ArtifactError::Order(pair[1].name.clone()));
        }
        let bytes = self.total_bytes();
        if bytes > total_max_bytes {
            return Err(ArtifactError::Total { bytes, max: total_max_bytes });
        }
        Ok(())
    }

    /// The digest that an approval binds: over a canonical line `name NUL size NUL sha256 LF` per artifact.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut text = String::new();
        for entry in &self.0 {
            text.push_str(&format!("{}\0{}\0{}\n", entry.name, entry.size, entry.sha256));
        }
        Digest::of(text.as_bytes())
    }

    /// Every part that the manifest's files travel in, as (name, part number), in sending order.
    pub fn parts(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.iter().flat_map(|entry| (0..part_count(entry.size)).map(|part| (entry.name.as_str(), part)))
    }

    /// Puts the files together from their parts and verifies size and digest of each.
    pub fn assemble(
        &self,
        parts: &BTreeMap<(String, u32), Vec<u8>>,
    ) -> Result<BTreeMap<String, Vec<u8>>, ArtifactError> {
        let mut files = BTreeMap::new();
        for entry in &self.0 {
            let mut bytes = Vec::new();
            for part in 0..part_count(entry.size) {
                let piece = parts
                    .get(&(entry.name.clone(), part))
                    .ok_or_else(|| ArtifactError::Missing(entry.name.clone()))?;
                bytes.extend_from_slice(piece);
            }
            if bytes.len() as u64 != entry.size || Digest::of(&bytes) != entry.sha256 {
                return Err(ArtifactError::Digest(entry.name.clone()));
            }
            files.insert(entry.name.clone(), bytes);
        }
        Ok(files)
    }
}

/// How many parts a file of `size` bytes travels in; an empty file needs none.
#[must_use]
pub fn part_count(size: u64) -> u32 {
    u32::try_from(size.div_ceil(ARTIFACT_PART_MAX_BYTES as u64)).unwrap_or(u32::MAX)
}

/// Checks that `name` is a plain file name.
pub fn check_name(name: &str) -> Result<(), ArtifactError> {
    let bad = name.is_empty()
        || name.len() > ARTIFACT_NAME_MAX_BYTES
        || name == "."
        || name == ".."
        || name.contains(['/', '\0', '\n']);
    if bad { Err(ArtifactError::Name(name.to_owned())) } else { Ok(()) }
}

/// One part of one artifact, on its way from or to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactPart {
    /// The artifact's name.
    pub name: String,
    /// The part's number, from 0.
    pub part: u32,
    /// At most [`ARTIFACT_PART_MAX_BYTES`] bytes, in base64.
    #[serde(with = "base64_bytes")]
    #[schemars(with = "String", extend("contentEncoding" = "base64"))]
    pub bytes: Vec<u8>,
}

/// Cuts files into parts, in the order of [`Manifest::parts`].
pub fn split(files: &BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = ArtifactPart> + '_ {
    files.iter().flat_map(|(name, bytes)| {
        (0_u32..).zip(bytes.chunks(ARTIFACT_PART_MAX_BYTES)).map(|(part, chunk)| ArtifactPart {
            name: name.clone(),
            part,
            bytes: chunk.to_vec(),
        })
    })
}

mod base64_bytes {
    //! Bytes as base64 text in JSON.
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sizes: &[(&str, usize)]) -> BTreeMap<String, Vec<u8>> {
        sizes.iter().map(|(name, size)| ((*name).to_owned(), vec![7; *size])).collect()
    }

    #[test]
    fn files_survive_being_cut_into_parts_and_put_together() {
        let files = files(&[("a", 0), ("b", ARTIFACT_PART_MAX_BYTES), ("c", ARTIFACT_PART_MAX_BYTES + 1)]);
        let manifest = Manifest::of(&files).unwrap();
        let parts: Vec<_> = split(&files).collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(manifest.parts().count(), 3);
        let by_key = parts.into_iter().map(|p| ((p.name, p.part), p.bytes)).collect();
        assert_eq!(manifest.assemble(&by_key).unwrap(), files);
    }

    #[test]
    fn incident_15_what_has_no_name_is_refused_by_whoever_sends_it_and_by_whoever_reads_it() {
        let files = files(&[("", 1)]);
        assert_eq!(Manifest::of(&files), Err(ArtifactError::Name(String::new())));
        let sent = ManifestEntry { name: String::new(), size: 1, sha256: Digest::of(&[7]) };
        let read = Manifest(vec![sent]).check(ARTIFACTS_TOTAL_MAX_BYTES as u64);
        assert_eq!(read, Err(ArtifactError::Name(String::new())));
    }

    #[test]
    fn the_total_is_accepted_at_the_limit_and_refused_one_byte_over() {
        assert!(Manifest::of(&files(&[("a", ARTIFACTS_TOTAL_MAX_BYTES)])).is_ok());
        let over = Manifest::of(&files(&[("a", ARTIFACTS_TOTAL_MAX_BYTES), ("b", 1)]));
        assert!(matches!(over, Err(ArtifactError::Total { .. })));
    }

    #[test]
    fn a_changed_byte_or_a_missing_part_is_refused() {
        let files = files(&[("plan", 10)]);
        let manifest = Manifest::of(&files).unwrap();
        assert_eq!(manifest.assemble(&BTreeMap::new()), Err(ArtifactError::Missing("plan".into())));
        let forged = BTreeMap::from([(("plan".to_owned(), 0), vec![8; 10])]);
        assert_eq!(manifest.assemble(&forged), Err(ArtifactError::Digest("plan".into())));
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "/etc/passwd", "a\0", "a\nb"] {
            assert!(check_name(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(check_name(&"n".repeat(ARTIFACT_NAME_MAX_BYTES)).is_ok());
        assert!(check_name(&"n".repeat(ARTIFACT_NAME_MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn the_digest_changes_with_any_name_size_or_content() {
        let base = Manifest::of(&files(&[("a", 1)])).unwrap().digest();
        assert_ne!(base, Manifest::of(&files(&[("b", 1)])).unwrap().digest());
        assert_ne!(base, Manifest::of(&files(&[("a", 2)])).unwrap().digest());
        assert_ne!(base, Manifest::default().digest());
    }
}
