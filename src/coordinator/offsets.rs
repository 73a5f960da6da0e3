//! The offsets that one group has committed, and those that wait for the end of a transaction.
//!
//! Owner: the group's coordinator. Invariants: an offset is here only once its record is durable; of two commits the
//! one later in the log counts; a pending offset becomes visible by its producer's commit marker alone.
//! It must not append to the log.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::records::Committed;
use crate::maps::HashMap;

/// A topic and one of its partitions.
pub type TopicPartition = (Rc<str>, i32);

/// An offset and where its record lies in the coordinator's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was committed.
    pub committed: Committed,
    /// Offset of the record.
    pub log_offset: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Offsets {
    committed: BTreeMap<TopicPartition, Entry>,
    pending: HashMap<i64, BTreeMap<TopicPartition, Entry>>,
}

impl Offsets {
    /// Nothing is committed, nothing pending.
    pub fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    /// Partitions with an offset, committed or pending.
    pub fn len(&self) -> usize {
        self.committed.len() + self.pending.values().map(BTreeMap::len).sum::<usize>()
    }

    /// The offset of a partition.
    pub fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.committed.get(&(Rc::from(topic), partition)).map(|entry| &entry.committed)
    }

    /// All offsets, by topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &Committed)> {
        self.committed.iter().map(|(place, entry)| (place, &entry.committed))
    }

    /// Whether some transaction has an offset of this partition in hand.
    pub fn is_pending(&self, topic: &str, partition: i32) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let place = (Rc::from(topic), partition);
        self.pending.values().any(|offsets| offsets.contains_key(&place))
    }

    /// Whether any transaction is open.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// A durable commit.
    pub fn put(&mut self, place: TopicPartition, entry: Entry) {
        put_later(&mut self.committed, place, entry);
    }

    /// A durable record of a transaction.
    pub fn put_pending(&mut self, producer_id: i64, place: TopicPartition, entry: Entry) {
        put_later(self.pending.entry(producer_id).or_default(), place, entry);
    }

    /// A durable tombstone at `log_offset`: the commit goes, unless a later one has come.
    pub fn remove(&mut self, place: &TopicPartition, log_offset: i64) {
        if self.committed.get(place).is_some_and(|entry| entry.log_offset < log_offset) {
            self.committed.remove(place);
        }
    }

    /// A pending record was deleted inside its transaction.
    pub fn remove_pending(&mut self, producer_id: i64, place: &TopicPartition) {
        if let Some(offsets) = self.pending.get_mut(&producer_id) {
            offsets.remove(place);
            if offsets.is_empty() {
                self.pending.remove(&producer_id);
            }
        }
    }

    /// A producer's transaction has ended.
    pub fn complete(&mut self, producer_id: i64, commit: bool) {
        let Some(offsets) = self.pending.remove(&producer_id) else { return };
        if commit {
            for (place, entry) in offsets {
                put_later(&mut self.committed, place, entry);
            }
        }
    }

    /// Offsets that are due: `since_ms` says from when a partition's retention counts, `None` that it is in use.
    pub fn expired(
        &self,
        now_ms: i64,
        retention_ms: i64,
        since_ms: impl Fn(&TopicPartition, &Committed) -> Option<i64>,
    ) -> Vec<TopicPartition> {
        let due = |place: &TopicPartition, committed: &Committed| match since_ms(place, committed) {
            None => false,
            Some(_) if committed.expire_ms >= 0 => now_ms >= committed.expire_ms,
            Some(since_ms) => now_ms.saturating_sub(since_ms) >= retention_ms,
        };
        self.iter()
            .filter(|(place, committed)| due(place, committed) && !self.is_pending(&place.0, place.1))
            .map(|(place, _)| place.clone())
            .collect()
    }
}

fn put_later(offsets: &mut BTreeMap<TopicPartition, Entry>, place: TopicPartition, entry: Entry) {
    if offsets.get(&place).is_none_or(|known| known.log_offset <= entry.log_offset) {
        offsets.insert(place, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32) -> TopicPartition {
        (Rc::from("t"), partition)
    }

    fn entry(offset: i64, log_offset: i64) -> Entry {
        let committed =
            Committed { offset, leader_epoch: -1, metadata: "".into(), commit_ms: 100, expire_ms: -1 };
        Entry { committed, log_offset }
    }

    #[test]
    fn the_later_record_counts_whatever_order_they_come_in() {
        let mut offsets = Offsets::default();
        offsets.put(place(0), entry(5, 11));
        offsets.put(place(0), entry(9, 10));
        assert_eq!(offsets.get("t", 0).map(|c| c.offset), Some(5));
        offsets.remove(&place(0), 10);
        assert_eq!(offsets.len(), 1);
        offsets.remove(&place(0), 12);
        assert!(offsets.is_empty());
    }

    #[test]
    fn pending_offsets_wait_for_their_marker() {
        let mut offsets = Offsets::default();
        offsets.put(place(0), entry(1, 1));
        offsets.put_pending(7, place(0), entry(2, 2));
        offsets.put_pending(8, place(1), entry(3, 3));
        assert!(offsets.is_pending("t", 0) && offsets.is_pending("t", 1) && !offsets.is_pending("t", 2));
        offsets.complete(8, false);
        assert!(!offsets.is_pending("t", 1) && offsets.get("t", 1).is_none());
        // A plain commit later in the log than the pending record wins over it.
        offsets.put(place(0), entry(4, 5));
        offsets.complete(7, true);
        assert_eq!(offsets.get("t", 0).map(|c| c.offset), Some(4));
        assert!(!offsets.has_pending());
    }

    #[test]
    fn offsets_expire_unless_pending_or_in_use() {
        let mut offsets = Offsets::default();
        for partition in 0..3 {
            offsets.put(place(partition), entry(1, 1));
        }
        offsets.put_pending(7, place(1), entry(2, 2));
        let since =
            |place: &TopicPartition, committed: &Committed| (place.1 != 2).then_some(committed.commit_ms);
        assert!(offsets.expired(149, 50, since).is_empty());
        assert_eq!(offsets.expired(150, 50, since), [place(0)]);
    }
}
