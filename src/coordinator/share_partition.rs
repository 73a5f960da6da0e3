//! Share partitions (KIP-932): what one share group has done with one partition, beside that partition's log.
//!
//! Owner: the core that owns the data. Invariants: there is one [`SharePartition`] for a group and a partition, and
//! one read of the log under way for it; an acknowledgement is answered once a state that holds it is durable; while
//! a state is written, whatever changes meanwhile shares the next write; when a state cannot be stored the share
//! partition is given up and what is on disk counts. What is in the window is lost with the process, what was
//! acknowledged is not. It must not know the wire format of requests; `share_read` reads the log for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::share_groups;
use super::share_records::{ShareState, StateKey};
use super::share_store::{self, StoreError};
use super::share_window::{AckBatch, AckError, Image, Rules, Window};
use crate::catalog::{Catalog, ResourceKind};
use crate::limits::{
    GROUP_TIMER_MS_MAX, SHARE_IDLE_MS, SHARE_PARTITIONS_PER_CORE_MAX, SHARE_SWEEP_INTERVAL_MS,
    SHARE_TIMER_MS_MIN,
};
use crate::maps::HashMap;
use crate::partition::Partition;
use crate::rt;
use crate::shard::Shard;
use crate::storage::{Isolation, LogError};
use crate::sync::Event;

/// The share partitions of one core, as its shard holds them.
#[derive(Default)]
pub struct SharePartitions {
    open: RefCell<HashMap<StateKey, Rc<SharePartition>>>,
    /// Fires when a lock ends before the one the timer sleeps for.
    wake: Event,
    sleeps_until_ms: Cell<i64>,
    /// Share sessions of this core's connections.
    pub sessions: Cell<usize>,
    /// Sessions that this core has numbered.
    pub numbered: Cell<u64>,
}

/// Why a share partition cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareError {
    /// The topic or partition is not there, or the group does not read it.
    Unknown,
    /// Its state cannot be read or written.
    Storage,
    /// There are too many of them.
    Full,
    /// The log is damaged at the wanted offset.
    Damaged,
    /// The acknowledgements contradict themselves.
    Invalid,
    /// Some offset is not acquired by the member.
    State,
}

impl From<StoreError> for ShareError {
    fn from(error: StoreError) -> ShareError {
        match error {
            StoreError::Failed => ShareError::Storage,
            StoreError::Full => ShareError::Full,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Active,
    Gone(ShareError),
}

/// What the configuration says about a group's share partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Limits of the window.
    pub rules: Rules,
    /// How long a member may keep a record, milliseconds.
    pub lock_ms: i64,
    /// What members may see.
    pub isolation: Isolation,
    /// Where a group begins.
    begin: Begin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    Latest,
    Earliest,
    /// That many milliseconds ago.
    Duration(i64),
}

/// See the module.
pub struct SharePartition {
    key: StateKey,
    /// The data.
    pub(super) partition: Rc<Partition>,
    /// What is in flight.
    pub(super) window: RefCell<Window>,
    shard: std::rc::Weak<Shard>,
    phase: Cell<Phase>,
    /// Fires when something may have become available, and when the phase changes.
    pub(super) news: Event,
    /// Fires when a state is stored, and when the share partition is given up.
    stored_event: Event,
    /// Whether a read is under way.
    pub(super) reading: Cell<bool>,
    changes: Cell<u64>,
    stored: Cell<u64>,
    writing: Cell<bool>,
    state: RefCell<ShareState>,
    used_ms: Cell<i64>,
}

fn group_text<'a>(catalog: &'a Catalog, group: &str, key: &str) -> Option<&'a str> {
    catalog.dynamic.configs(ResourceKind::Group, group)?.get(key).map(String::as_str)
}

/// What holds for a group now: its own configuration, then the broker's.
pub fn settings(shard: &Shard, group: &str) -> Settings {
    let (catalog, rules) = (shard.catalog(), &shard.config.groups.share);
    let own = |key: &str| group_text(&catalog, group, key);
    let lock_ms = own("share.record.lock.duration.ms").and_then(|text| text.parse::<i32>().ok());
    let (min, max) = rules.record_lock_bounds_ms;
    let count = |key: &str| own(key).and_then(|text| text.parse::<i32>().ok());
    let deliveries = count("share.delivery.count.limit").unwrap_or(rules.delivery_count_max);
    let records = count("share.partition.max.record.locks").unwrap_or(rules.record_locks_max);
    let begin = match own("share.auto.offset.reset").map(|text| text.trim().to_ascii_lowercase()) {
        Some(text) if text == "earliest" => Begin::Earliest,
        Some(text) => {
            text.strip_prefix("by_duration:").and_then(duration_ms).map_or(Begin::Latest, Begin::Duration)
        }
        None => Begin::Latest,
    };
    Settings {
        rules: Rules {
            deliveries_max: i16::try_from(deliveries).unwrap_or(i16::MAX).max(1),
            records_max: i64::from(records.max(1)),
        },
        lock_ms: i64::from(lock_ms.map_or(rules.record_lock_ms, |ms| ms.min(max).max(min))),
        isolation: match own("share.isolation.level").map(str::trim) {
            Some(level) if level.eq_ignore_ascii_case("read_committed") => Isolation::Committed,
            _ => Isolation::Uncommitted,
        },
        begin,
    }
}

/// An ISO-8601 duration of days, hours, minutes and seconds, in milliseconds.
fn duration_ms(text: &str) -> Option<i64> {
    let rest = text.trim().to_ascii_lowercase();
    let rest = rest.strip_prefix('p')?;
    let (days, time) = rest.split_once('t').unwrap_or((rest, ""));
    let mut total_ms = 0.0;
    for (part, units) in
        [(days, &[('d', 86_400_000.0)][..]), (time, &[('h', 3.6e6), ('m', 6e4), ('s', 1e3)][..])]
    {
        let mut digits = String::new();
        for c in part.chars() {
            match units.iter().find(|(unit, _)| *unit == c) {
                Some((_, factor)) => total_ms += std::mem::take(&mut digits).parse::<f64>().ok()? * factor,
                None => digits.push(c),
            }
        }
        if !digits.is_empty() {
            return None;
        }
    }
    (0.0..1e17).contains(&total_ms).then_some(total_ms as i64)
}

/// The share partition of a group on this core, with its state loaded; the first call decides where it begins.
pub async fn open(shard: &Rc<Shard>, key: &StateKey) -> Result<Rc<SharePartition>, ShareError> {
    let all = &shard.coordinators.share_partitions;
    let known = all.open.borrow().get(key).cloned();
    let found = match known {
        Some(found) => found,
        None => {
            let partition = shard.partition(key.topic_id, key.partition).ok_or(ShareError::Unknown)?;
            if all.open.borrow().len() >= SHARE_PARTITIONS_PER_CORE_MAX {
                return Err(ShareError::Full);
            }
            let found = Rc::new(SharePartition {
                key: key.clone(),
                partition,
                window: RefCell::new(Window::new(0)),
                shard: Rc::downgrade(shard),
                phase: Cell::new(Phase::Loading),
                news: Event::default(),
                stored_event: Event::default(),
                reading: Cell::new(false),
                changes: Cell::new(0),
                stored: Cell::new(0),
                writing: Cell::new(false),
                state: RefCell::default(),
                used_ms: Cell::new(rt::steady_ms()),
            });
            all.open.borrow_mut().insert(key.clone(), found.clone());
            let (loading, shard) = (found.clone(), shard.clone());
            rt::spawn(async move {
                if let Err(error) = loading.load(&shard).await {
                    loading.give_up(error);
                }
            });
            found
        }
    };
    found.used_ms.set(rt::steady_ms());
    found.news.wait_until(|| found.phase.get() != Phase::Loading).await;
    match found.phase.get() {
        Phase::Gone(error) => Err(error),
        _ => Ok(found),
    }
}

impl SharePartition {
    async fn load(self: &Rc<Self>, shard: &Rc<Shard>) -> Result<(), ShareError> {
        let group = &self.key.group;
        share_groups::check_reads(shard, group, self.key.topic_id, self.key.partition).await?;
        let known = share_store::read(shard, &self.key).await?;
        let is_new = known.is_none();
        let state = match known {
            Some(state) => state,
            None => {
                let start = self.begin(settings(shard, group).begin).await?;
                let image = Image { start, batches: Vec::new() };
                ShareState { created_ms: rt::wall_ms(), image, ..ShareState::default() }
            }
        };
        self.window.replace(Window::restore(&state.image));
        self.state.replace(state);
        self.follow_log();
        if is_new {
            // Where the group begins must not depend on when the broker was last started.
            let change = self.touch();
            self.wait_stored(change).await?;
        }
        if self.phase.get() == Phase::Loading {
            self.phase.set(Phase::Active);
        }
        self.news.fire();
        Ok(())
    }

    async fn begin(&self, begin: Begin) -> Result<i64, ShareError> {
        let log = &self.partition.log;
        Ok(match begin {
            Begin::Latest => log.high_watermark(),
            Begin::Earliest => log.log_start_offset(),
            Begin::Duration(ago_ms) => {
                let found = log.find_timestamp((rt::wall_ms() - ago_ms).max(0)).await;
                let found = found.map_err(|error| {
                    tracing::error!(partition = %log.name(), "timestamp look-up failed: {error}");
                    ShareError::Damaged
                })?;
                found.map_or(log.high_watermark(), |(offset, _)| offset)
            }
        })
    }

    /// Takes note of where the log begins and ends; whether the window was changed by that.
    pub(super) fn follow_log(&self) -> bool {
        let log = &self.partition.log;
        let mut window = self.window.borrow_mut();
        let moved = window.raise_start(log.log_start_offset());
        if window.start() > log.log_end_offset() {
            // The log has lost its end (it was not flushed): what comes will have these offsets again.
            window.reset(log.log_end_offset());
            return true;
        }
        moved
    }

    /// The limits and the rest that hold now.
    pub(super) fn settings(&self) -> Option<Settings> {
        self.shard.upgrade().map(|shard| settings(&shard, &self.key.group))
    }

    /// The window has changed: its state will be stored. The number is for [`wait_stored`](Self::wait_stored).
    pub(super) fn touch(self: &Rc<Self>) -> u64 {
        self.changes.set(self.changes.get() + 1);
        if !self.writing.replace(true) {
            let this = self.clone();
            rt::spawn(async move { this.store().await });
        }
        self.changes.get()
    }

    async fn store(self: Rc<Self>) {
        while self.stored.get() < self.changes.get() {
            let change = self.changes.get();
            let Some(shard) = self.shard.upgrade() else { break };
            if let Phase::Gone(_) = self.phase.get() {
                break;
            }
            let next = {
                let known = self.state.borrow();
                ShareState {
                    snapshot_epoch: known.snapshot_epoch.wrapping_add(1).max(0),
                    state_epoch: known.state_epoch,
                    leader_epoch: self.partition.leader_epoch(),
                    created_ms: known.created_ms,
                    written_ms: rt::wall_ms(),
                    image: self.window.borrow().image(),
                }
            };
            if let Err(error) = share_store::write(&shard, &self.key, next.clone()).await {
                self.give_up(error.into());
                break;
            }
            self.state.borrow_mut().snapshot_epoch = next.snapshot_epoch;
            self.stored.set(change);
            self.stored_event.fire();
        }
        self.writing.set(false);
    }

    /// Waits until the change of that number is durable.
    pub async fn wait_stored(&self, change: u64) -> Result<(), ShareError> {
        #[cfg(test)]
        if crate::sim::planted(crate::sim::Canary::HastyShare) {
            return Ok(());
        }
        let gone = || matches!(self.phase.get(), Phase::Gone(_));
        self.stored_event.wait_until(|| self.stored.get() >= change || gone()).await;
        match self.phase.get() {
            _ if self.stored.get() >= change => Ok(()),
            Phase::Gone(error) => Err(error),
            _ => Err(ShareError::Storage),
        }
    }

    /// Whoever comes next begins with what is on disk.
    fn give_up(self: &Rc<Self>, error: ShareError) {
        self.phase.set(Phase::Gone(error));
        if let Some(shard) = self.shard.upgrade() {
            let mut open = shard.coordinators.share_partitions.open.borrow_mut();
            if open.get(&self.key).is_some_and(|known| Rc::ptr_eq(known, self)) {
                open.remove(&self.key);
            }
        }
        self.news.fire();
        self.stored_event.fire();
    }

    /// Whether it is in use no longer; those who wait for news must ask again.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.phase.get(), Phase::Gone(_))
    }

    /// Wakes the timer if a lock ends before it would look.
    pub(super) fn arm(&self, deadline_ms: i64) {
        let Some(shard) = self.shard.upgrade() else { return };
        let all = &shard.coordinators.share_partitions;
        if deadline_ms < all.sleeps_until_ms.get() {
            all.wake.fire();
        }
    }

    /// Carries out a member's acknowledgements, all or none; they hold once [`wait_stored`](Self::wait_stored) says
    /// that the change of this number is durable.
    pub fn acknowledge(self: &Rc<Self>, member: &str, batches: &[AckBatch]) -> Result<u64, ShareError> {
        let settings = self.settings().ok_or(ShareError::Storage)?;
        self.used_ms.set(rt::steady_ms());
        let deadline_ms = rt::steady_ms() + settings.lock_ms;
        self.follow_log();
        let done = self.window.borrow_mut().acknowledge(member, batches, deadline_ms, settings.rules);
        done.map_err(|error| match error {
            AckError::Invalid => ShareError::Invalid,
            AckError::State => ShareError::State,
        })?;
        self.news.fire();
        Ok(self.touch())
    }

    /// Sets the offset to go on at; resolves when that is durable.
    pub async fn reset(self: &Rc<Self>, offset: i64) -> Result<(), ShareError> {
        self.window.borrow_mut().reset(offset);
        self.follow_log();
        {
            let mut state = self.state.borrow_mut();
            state.state_epoch = state.state_epoch.wrapping_add(1).max(0);
        }
        self.news.fire();
        self.wait_stored(self.touch()).await
    }

    fn release(self: &Rc<Self>, due: impl FnOnce(&mut Window, Rules) -> bool) {
        let Some(settings) = self.settings() else { return };
        if due(&mut self.window.borrow_mut(), settings.rules) {
            self.touch();
            self.news.fire();
        }
    }
}

/// Takes back what a share session has on this core.
pub fn release_session(shard: &Rc<Shard>, session: u64) {
    let all: Vec<_> = shard.coordinators.share_partitions.open.borrow().values().cloned().collect();
    for one in all {
        one.release(|window, rules| window.release_session(session, rules));
    }
}

/// Sets where a group goes on, making the share partition if need be.
pub async fn reset(shard: &Rc<Shard>, key: &StateKey, offset: i64) -> Result<(), ShareError> {
    open(shard, key).await?.reset(offset).await
}

/// Forgets what a group has done with a partition of this core.
pub async fn forget(shard: &Rc<Shard>, key: &StateKey) -> Result<(), ShareError> {
    let known = shard.coordinators.share_partitions.open.borrow().get(key).cloned();
    if let Some(known) = known {
        known.give_up(ShareError::Unknown);
        // A state that is being written would come back behind the tombstone.
        while known.writing.get() {
            rt::sleep_ms(1).await;
        }
    }
    Ok(share_store::delete(shard, key).await?)
}

/// Where a group stands with a partition: start offset, leader epoch, and offsets behind the start that are done;
/// `None` before it has begun.
pub async fn stored(shard: &Rc<Shard>, key: &StateKey) -> Result<Option<(i64, i32, i64)>, ShareError> {
    let state = share_store::read(shard, key).await?;
    Ok(state.map(|state| (state.image.start, state.leader_epoch, state.image.complete_count())))
}

/// Ends locks in time, forgets what is idle and what belongs to topics that are gone.
pub(super) async fn serve(shard: Rc<Shard>) {
    let all = &shard.coordinators.share_partitions;
    let stopped = shard.stop.wait_until(|| shard.is_stopping());
    let timer = async {
        let mut sweep_ms = rt::steady_ms() + SHARE_SWEEP_INTERVAL_MS;
        loop {
            let seen = all.wake.generation();
            let now_ms = rt::steady_ms();
            let open: Vec<_> = all.open.borrow().values().cloned().collect();
            let mut next_ms = now_ms + GROUP_TIMER_MS_MAX;
            for one in &open {
                one.release(|window, rules| window.expire(now_ms, rules));
                next_ms = one.window.borrow().next_deadline_ms().unwrap_or(i64::MAX).min(next_ms);
                one.close_if_idle(now_ms);
            }
            if now_ms >= sweep_ms {
                sweep_ms = now_ms + SHARE_SWEEP_INTERVAL_MS;
                share_store::sweep(&shard).await;
            }
            all.sleeps_until_ms.set(next_ms);
            let sleep = rt::sleep_ms((next_ms - rt::steady_ms()).max(SHARE_TIMER_MS_MIN) as u64);
            futures_lite::future::or(sleep, all.wake.wait_past(seen)).await;
        }
    };
    futures_lite::future::or(stopped, timer).await;
}

impl SharePartition {
    fn close_if_idle(self: &Rc<Self>, now_ms: i64) {
        let deleted = self.partition.log.failure() == Some(LogError::Deleted);
        let busy = self.writing.get()
            || self.reading.get()
            || self.phase.get() == Phase::Loading
            || self.window.borrow().next_deadline_ms().is_some();
        if deleted || (!busy && now_ms - self.used_ms.get() >= SHARE_IDLE_MS) {
            self.give_up(ShareError::Unknown);
        }
    }

    /// Somebody fetches from it.
    pub(super) fn note_use(&self) {
        self.used_ms.set(rt::steady_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_iso_8601() {
        assert_eq!(duration_ms("P1D"), Some(86_400_000));
        assert_eq!(duration_ms("PT1H30M"), Some(5_400_000));
        assert_eq!(duration_ms("pt0.5s"), Some(500));
        for bad in ["", "1D", "P1", "PT1D", "PTxS", "P-1D"] {
            assert_eq!(duration_ms(bad), None, "{bad}");
        }
    }
}
