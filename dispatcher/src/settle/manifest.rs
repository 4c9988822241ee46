//! Is what a step left what its manifest says? Pure: compares a manifest with what is known of the stored parts (protocol F2).

use std::collections::BTreeMap;

use switchyard_common::contract::artifact::{ArtifactError, Manifest, part_count};
use switchyard_common::contract::ids::Digest;

/// What is stored of one artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Parts that have arrived.
    pub parts: u32,
    /// Their bytes.
    pub bytes: u64,
    /// SHA-256 over them, in the order of their numbers.
    pub sha256: Digest,
}

/// What comes of the comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// Complete, and the bytes are those that the manifest names.
    Complete,
    /// Parts have not arrived: another replica may be about to store them.
    Missing(ArtifactError),
    /// It can never match.
    Refused(ArtifactError),
}

/// Compares `manifest` with what is stored, by name, under the configured total.
#[must_use]
pub fn verify(manifest: &Manifest, stored: &BTreeMap<String, StoredFile>, total_max_bytes: u64) -> Verified {
    if let Err(error) = manifest.check(total_max_bytes) {
        return Verified::Refused(error);
    }
    let nothing = StoredFile { parts: 0, bytes: 0, sha256: Digest::of(&[]) };
    let mut missing = None;
    for entry in &manifest.0 {
        let file = stored.get(&entry.name).unwrap_or(&nothing);
        if file.parts < part_count(entry.size) {
            missing.get_or_insert_with(|| ArtifactError::Missing(entry.name.clone()));
        } else if file.bytes != entry.size || file.sha256 != entry.sha256 {
            return Verified::Refused(ArtifactError::Digest(entry.name.clone()));
        }
    }
    missing.map_or(Verified::Complete, Verified::Missing)
}

#[cfg(test)]
mod tests {
    use switchyard_common::contract::limits::{ARTIFACT_PART_MAX_BYTES, ARTIFACTS_TOTAL_MAX_BYTES};

    use super::*;

    const MAX: u64 = ARTIFACTS_TOTAL_MAX_BYTES as u64;

    fn files(sizes: &[(&str, usize)]) -> BTreeMap<String, Vec<u8>> {
        sizes.iter().map(|(name, size)| ((*name).to_owned(), vec![7; *size])).collect()
    }

    fn stored(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, StoredFile> {
        let store = |bytes: &Vec<u8>| StoredFile {
            parts: part_count(bytes.len() as u64),
            bytes: bytes.len() as u64,
            sha256: Digest::of(bytes),
        };
        files.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(n, b)| (n.clone(), store(b))).collect()
    }

    #[test]
    fn complete_parts_match_and_an_empty_file_needs_none() {
        let files = files(&[("empty", 0), ("plan", ARTIFACT_PART_MAX_BYTES + 1)]);
        let manifest = Manifest::of(&files).unwrap();
        assert_eq!(verify(&manifest, &stored(&files), MAX), Verified::Complete);
        assert_eq!(verify(&Manifest::default(), &BTreeMap::new(), MAX), Verified::Complete);
    }

    #[test]
    fn missing_parts_may_still_come_but_wrong_bytes_never_match() {
        let files = files(&[("a", 3), ("plan", ARTIFACT_PART_MAX_BYTES + 1)]);
        let manifest = Manifest::of(&files).unwrap();
        let mut partly = stored(&files);
        partly.get_mut("plan").unwrap().parts = 1;
        assert_eq!(verify(&manifest, &partly, MAX), Verified::Missing(ArtifactError::Missing("plan".into())));
        partly.get_mut("a").unwrap().sha256 = Digest::of(b"other");
        assert_eq!(verify(&manifest, &partly, MAX), Verified::Refused(ArtifactError::Digest("a".into())));
    }

    #[test]
    fn more_bytes_than_the_manifest_says_are_refused() {
        let files = files(&[("a", 3)]);
        let manifest = Manifest::of(&files).unwrap();
        let mut longer = stored(&files);
        longer.get_mut("a").unwrap().bytes = 4;
        assert!(matches!(verify(&manifest, &longer, MAX), Verified::Refused(ArtifactError::Digest(_))));
    }

    #[test]
    fn the_configured_total_is_accepted_at_the_limit_and_refused_one_byte_over() {
        let files = files(&[("a", 10)]);
        let manifest = Manifest::of(&files).unwrap();
        assert_eq!(verify(&manifest, &stored(&files), 10), Verified::Complete);
        let over = verify(&manifest, &stored(&files), 9);
        assert_eq!(over, Verified::Refused(ArtifactError::Total { bytes: 10, max: 9 }));
    }
}
