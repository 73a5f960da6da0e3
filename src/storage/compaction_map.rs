//! The map of compaction: the last offset of each key in the part of a log that is not compacted yet.
//!
//! Owner: one cleaner thread, for one pass. Invariants: memory is fixed at the start, within the budget that the
//! configuration names; the map refuses a new key when it is full and forgets none.
//! Keys are known by 128 bits of two SipHashes with secret random keys: nobody can choose keys that collide, and
//! among the n = 5 million keys that the default budget holds, some two do so with a chance of n² / 2^129 < 10^-25,
//! which is less than what a disk gets wrong. A collision would take the older of the two keys' records away.
//! It must not do I/O.

use std::hash::{BuildHasher, RandomState};

use crate::limits::CLEANER_SLOTS_MIN;

/// Bytes of one slot.
const SLOT_BYTES: usize = size_of::<Slot>();
/// No offset: the slot is free.
const FREE: i64 = -1;

#[derive(Clone, Copy)]
struct Slot {
    hash: (u64, u64),
    offset: i64,
}

/// Key hash to last offset.
pub struct KeyMap {
    slots: Vec<Slot>,
    used: usize,
    used_max: usize,
    hashers: (RandomState, RandomState),
}

/// The map is full and does not know the key.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl KeyMap {
    /// A map for up to `keys_max` keys, or as many as fit `budget_bytes` with `load_percent` of the slots in use.
    pub fn new(budget_bytes: u64, load_percent: u64, keys_max: u64) -> KeyMap {
        let load_percent = load_percent.clamp(1, 95);
        let affordable = (budget_bytes / SLOT_BYTES as u64).max(CLEANER_SLOTS_MIN as u64);
        let wanted = keys_max.saturating_mul(100) / load_percent + CLEANER_SLOTS_MIN as u64;
        let slots = affordable.min(wanted) as usize;
        KeyMap {
            slots: vec![Slot { hash: (0, 0), offset: FREE }; slots],
            used: 0,
            used_max: ((slots as u64 * load_percent / 100) as usize).max(1),
            hashers: (RandomState::new(), RandomState::new()),
        }
    }

    fn hash(&self, key: &[u8]) -> (u64, u64) {
        (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key))
    }

    /// The slot of a key, or the free one where it would go.
    fn slot(&self, hash: (u64, u64)) -> usize {
        let mut at = ((u128::from(hash.0) * self.slots.len() as u128) >> 64) as usize;
        // `used_max` leaves free slots, so the walk ends.
        while self.slots[at].offset != FREE && self.slots[at].hash != hash {
            at = (at + 1) % self.slots.len();
        }
        at
    }

    /// Notes that `key` has a record at `offset`; offsets come in rising order.
    pub fn note(&mut self, key: &[u8], offset: i64) -> Result<(), Full> {
        let hash = self.hash(key);
        let at = self.slot(hash);
        if self.slots[at].offset == FREE {
            if self.used == self.used_max {
                return Err(Full);
            }
            self.used += 1;
        }
        self.slots[at] = Slot { hash, offset };
        Ok(())
    }

    /// The last offset noted for `key`.
    pub fn last(&self, key: &[u8]) -> Option<i64> {
        let offset = self.slots[self.slot(self.hash(key))].offset;
        (offset != FREE).then_some(offset)
    }

    /// Keys in the map.
    pub fn len(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_wins_and_a_full_map_forgets_nothing() {
        let mut map = KeyMap::new(0, 90, u64::MAX);
        let mut accepted = 0i64;
        while map.note(&accepted.to_le_bytes(), accepted).is_ok() {
            accepted += 1;
        }
        assert_eq!(map.len() as i64, accepted);
        assert!(accepted as usize >= CLEANER_SLOTS_MIN * 8 / 10);
        assert_eq!(map.note(b"one more", accepted), Err(Full));
        assert_eq!(map.note(&3i64.to_le_bytes(), accepted), Ok(()));
        for key in 0..accepted {
            let expected = if key == 3 { accepted } else { key };
            assert_eq!(map.last(&key.to_le_bytes()), Some(expected));
        }
        assert_eq!(map.last(b"one more"), None);
    }

    #[test]
    fn memory_follows_the_need_and_stays_within_the_budget() {
        assert!(KeyMap::new(1 << 30, 90, 10).slots.len() < 2 * CLEANER_SLOTS_MIN);
        assert!(KeyMap::new(1 << 20, 90, u64::MAX).slots.len() * SLOT_BYTES <= 1 << 20);
    }
}
