//! Reading `__consumer_offsets` back: what a coordinator knows after a start.
//!
//! Owner: the partition's coordinator. Invariants: nothing is answered before the end of the log is reached; later
//! records win; offsets of transactions whose end is not in the log stay pending; records that cannot be read are
//! skipped with a line in the log, because the rest is worth having.
//! It must not write.

use std::cell::RefCell;
use std::rc::Rc;

use super::classic::ClassicGroup;
use super::consumer_image::ConsumerImage;
use super::groups::{Group, GroupPartition, Kind, Phase};
use super::offsets::{Entry, Offsets};
use super::records::{Committed, GroupRecord, Key};
use super::share_group::ShareImage;
use super::state_log::{RecordProducer, Replayed};
use crate::maps::HashMap;
use crate::rt;

/// What the log says about one group.
#[derive(Default)]
struct Image {
    classic: Option<GroupRecord>,
    consumer: Option<ConsumerImage>,
    share: Option<ShareImage>,
    offsets: Offsets,
}

/// What the log says so far.
#[derive(Default)]
struct Loader {
    groups: HashMap<Rc<str>, Image>,
    pending: HashMap<i64, crate::maps::HashSet<Rc<str>>>,
    unreadable: usize,
}

impl GroupPartition {
    /// Loads in the background; at once if there is nothing.
    pub(super) fn begin_loading(self: &Rc<Self>) {
        if self.log.is_empty() {
            self.phase.set(Phase::Active);
            return;
        }
        self.phase.set(Phase::Loading);
        let partition = self.clone();
        rt::spawn(async move {
            let began_ms = rt::steady_ms();
            let loader = RefCell::new(Loader::default());
            let outcome = partition.log.replay(|item| loader.borrow_mut().take(&item)).await;
            let name = partition.log.partition().log.name().to_owned();
            if let Err(error) = outcome {
                tracing::error!("{name}: the groups in it cannot be loaded: {error}");
                partition.phase.set(Phase::Failed);
                return;
            }
            let loader = loader.into_inner();
            let (count, unreadable) = (loader.groups.len(), loader.unreadable);
            partition.take_image(loader);
            partition.phase.set(Phase::Active);
            let took_ms = rt::steady_ms() - began_ms;
            if unreadable > 0 {
                tracing::warn!("{name}: {unreadable} records are not understood and left out");
            }
            tracing::debug!("{name}: {count} groups loaded in {took_ms} ms");
        });
    }

    fn take_image(self: &Rc<Self>, loader: Loader) {
        let now_ms = rt::steady_ms();
        let rules = self.config.groups.clone();
        let assignor = rules.consumer_assignors.first().map_or("uniform", String::as_str);
        let timeout_ms = rules.consumer_session_timeout_ms;
        *self.pending.borrow_mut() = loader.pending;
        for (name, image) in loader.groups {
            let kind = match (image.consumer, image.share, image.classic) {
                (Some(consumer), _, _) if consumer.exists() => {
                    Kind::Consumer(consumer.into_group(assignor, timeout_ms, now_ms))
                }
                (_, Some(share), _) if share.exists() => {
                    Kind::Share(share.into_group(rules.share.session_timeout_ms, now_ms))
                }
                (_, _, Some(record)) => Kind::Classic(ClassicGroup::restore(self.rules(), record, now_ms)),
                _ if image.offsets.is_empty() => continue,
                // Offsets alone: when the last member left is not known.
                _ => Kind::Classic(ClassicGroup::new(self.rules(), -1)),
            };
            let mut group = Group::new(kind);
            group.offsets = image.offsets;
            let group = Rc::new(RefCell::new(group));
            self.groups.borrow_mut().insert(name.clone(), group.clone());
            self.arm(&name, &group);
        }
    }
}

impl Loader {
    fn take(&mut self, item: &Replayed<'_>) {
        match *item {
            Replayed::Marker { producer, committed } => {
                for name in self.pending.remove(&producer.id).unwrap_or_default() {
                    if let Some(image) = self.groups.get_mut(&name) {
                        image.offsets.complete(producer.id, committed);
                    }
                }
            }
            Replayed::Record { offset, key, value, producer, .. } => {
                if self.take_record(offset, key, value, producer).is_none() {
                    self.unreadable += 1;
                }
                if value.is_none() {
                    self.prune(key);
                }
            }
        }
    }

    /// A group of which nothing is left takes no memory.
    fn prune(&mut self, key: &[u8]) {
        let Some(name) = Key::decode(key).ok().and_then(Key::group) else { return };
        let gone = |image: &Image| {
            image.classic.is_none()
                && image.offsets.is_empty()
                && image.consumer.as_ref().is_none_or(|c| c.is_gone())
                && image.share.as_ref().is_none_or(ShareImage::is_gone)
        };
        if self.groups.get(name).is_some_and(gone) {
            self.groups.remove(name);
        }
    }

    fn image(&mut self, name: &str) -> (Rc<str>, &mut Image) {
        let name: Rc<str> = Rc::from(name);
        (name.clone(), self.groups.entry(name).or_default())
    }

    /// `None` for a record that is not understood.
    fn take_record(
        &mut self,
        log_offset: i64,
        key: &[u8],
        value: Option<&[u8]>,
        producer: Option<RecordProducer>,
    ) -> Option<()> {
        match Key::decode(key).ok()? {
            Key::Offset { group, topic, partition } => {
                let place = (Rc::from(topic), partition);
                let committed = value.map(Committed::decode).transpose().ok()?;
                let (name, image) = self.image(group);
                match (committed, producer) {
                    (Some(committed), Some(producer)) => {
                        image.offsets.put_pending(producer.id, place, Entry { committed, log_offset });
                        self.pending.entry(producer.id).or_default().insert(name);
                    }
                    (None, Some(producer)) => image.offsets.remove_pending(producer.id, &place),
                    (Some(committed), None) => image.offsets.put(place, Entry { committed, log_offset }),
                    (None, None) => image.offsets.remove(&place, log_offset),
                }
            }
            Key::Group(group) => {
                let record = value.map(GroupRecord::decode).transpose().ok()?;
                self.image(group).1.classic = record;
            }
            Key::Unknown(_) => return None,
            key @ (Key::ConsumerGroup(group)
            | Key::Member(group, _)
            | Key::Target(group)
            | Key::TargetMember(group, _)
            | Key::CurrentMember(group, _)) => {
                let consumer = self.image(group).1.consumer.get_or_insert_default();
                consumer.take(key, value).ok()?;
            }
            key @ (Key::ShareGroup(group)
            | Key::ShareMember(group, _)
            | Key::ShareTarget(group)
            | Key::ShareTargetMember(group, _)
            | Key::ShareCurrentMember(group, _)
            | Key::ShareTopics(group)) => {
                let share = self.image(group).1.share.get_or_insert_default();
                share.take(key, value).ok()?;
            }
        }
        Some(())
    }
}

/// A key, a value, and whose transaction it belongs to (see [`load_all`]).
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) type LooseRecord = (Vec<u8>, Option<Vec<u8>>, u8);

/// Loads records (key, value, whose transaction: 0 for none) and makes the groups of them, as a start does.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn load_all(records: &[LooseRecord]) {
    let mut loader = Loader::default();
    for (offset, (key, value, owner)) in (0..).zip(records) {
        let producer = RecordProducer { id: i64::from(*owner >> 1), epoch: 0 };
        if owner & 1 == 1 && key.is_empty() {
            loader.take(&Replayed::Marker { producer, committed: value.is_some() });
            continue;
        }
        let producer = (owner & 0x81 == 0x81).then_some(producer);
        let value = value.as_deref();
        loader.take(&Replayed::Record { offset, timestamp_ms: 0, key, value, producer });
    }
    let rules = super::classic::Rules { initial_delay_ms: 0, size_max: 10 };
    for image in loader.groups.into_values() {
        let consumer = image.consumer.map(|image| image.into_group("uniform", 45_000, 1));
        let share = image.share.map(|image| image.into_group(45_000, 1));
        let classic = image.classic.map(|record| ClassicGroup::restore(rules, record, 1));
        drop((consumer, share, classic));
    }
}
