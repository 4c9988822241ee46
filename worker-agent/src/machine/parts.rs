//! Input parts that have arrived: kept in memory, bounded, until their assignment takes them (protocol F2).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use switchyard_common::contract::artifact::{ArtifactError, Manifest};
use switchyard_common::contract::assignment::{AttemptKey, InputPart};
use switchyard_common::contract::ids::SessionId;

use super::limits::{INPUT_PARTS_KEEP_MS, INPUT_PARTS_MAX_BYTES, INPUT_PARTS_MAX_COUNT};
use super::time::BootTime;

/// The parts of one attempt.
#[derive(Debug)]
struct Arrived {
    parts: BTreeMap<(String, u32), Vec<u8>>,
    bytes: usize,
    last: BootTime,
}

/// All parts that have arrived, by attempt and session.
#[derive(Debug, Default)]
pub(super) struct Parts {
    arrived: BTreeMap<(AttemptKey, SessionId), Arrived>,
    bytes: usize,
    count: usize,
}

impl Parts {
    /// Keeps a part; a copy of one that is there changes nothing. The error says why a part was dropped.
    pub(super) fn keep(&mut self, now: BootTime, part: InputPart) -> Result<(), &'static str> {
        let size = part.part.bytes.len();
        if self.bytes.saturating_add(size) > INPUT_PARTS_MAX_BYTES {
            return Err("the parts that wait for their assignments have reached their limit in bytes");
        }
        if self.count >= INPUT_PARTS_MAX_COUNT {
            return Err("the parts that wait for their assignments have reached their limit in number");
        }
        let arrived = self.arrived.entry((part.key, part.session)).or_insert_with(|| Arrived {
            parts: BTreeMap::new(),
            bytes: 0,
            last: now,
        });
        arrived.last = now;
        if let Entry::Vacant(vacant) = arrived.parts.entry((part.part.name, part.part.part)) {
            vacant.insert(part.part.bytes);
            arrived.bytes += size;
            self.bytes += size;
            self.count += 1;
        }
        Ok(())
    }

    /// Takes the files that `manifest` names, once all their parts are here; `None` while some are missing.
    pub(super) fn take(
        &mut self,
        key: &AttemptKey,
        session: SessionId,
        manifest: &Manifest,
    ) -> Option<Result<BTreeMap<String, Vec<u8>>, ArtifactError>> {
        if manifest.parts().next().is_none() {
            return Some(manifest.assemble(&BTreeMap::new()));
        }
        let id = (key.clone(), session);
        let arrived = self.arrived.get(&id)?;
        // The map's keys own their names, so looking one up needs a name of its own.
        if !manifest.parts().all(|(name, part)| arrived.parts.contains_key(&(name.to_owned(), part))) {
            return None;
        }
        let arrived = self.arrived.remove(&id)?;
        self.forget(&arrived);
        Some(manifest.assemble(&arrived.parts))
    }

    /// Drops what belongs to an attempt.
    pub(super) fn drop_attempt(&mut self, key: &AttemptKey, session: SessionId) {
        if let Some(arrived) = self.arrived.remove(&(key.clone(), session)) {
            self.forget(&arrived);
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Drops what has waited too long; returns the attempts whose parts went.
    pub(super) fn expire(&mut self, now: BootTime) -> Vec<AttemptKey> {
        let keep = std::time::Duration::from_millis(INPUT_PARTS_KEEP_MS);
        let old = |arrived: &Arrived| now.since(arrived.last) >= keep;
        let gone: Vec<_> =
            self.arrived.iter().filter(|(_, arrived)| old(arrived)).map(|(id, _)| id.clone()).collect();
        for (key, session) in &gone {
            self.drop_attempt(key, *session);
        }
        gone.into_iter().map(|(key, _)| key).collect()
    }

    fn forget(&mut self, arrived: &Arrived) {
        self.bytes = self.bytes.saturating_sub(arrived.bytes);
        self.count = self.count.saturating_sub(arrived.parts.len());
    }
}
