//! Memory for answers on their way to peers: bounded per core, because a peer that does not read pins what it asked
//! for.
//!
//! Owner: one core. Invariants: records are read for an answer only when there is room for them, but one answer is
//! always let through, so that a small budget slows down and never deadlocks; an answer gets a part of what is left, so
//! that few large ones do not keep out all others; room is made by the peers that read, and where they do not by
//! hanging up on those that have taken nothing for longest. An answer that only waits for records holds nothing; one
//! that is made of none is noted while its peer is slow to take it. It must not know what an answer says, or touch
//! sockets: the sender of a stalled answer is woken and ends its connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::limits::{ANSWER_BYTES_MIN, ANSWER_PARTS, ANSWERS_BYTES_MAX, STALL_MS_MIN};
use crate::metrics::{self, Counter};
use crate::rt;
use crate::sync::Event;

/// The memory of one core's answers.
pub struct AnswerMemory {
    budget_bytes: usize,
    held_bytes: Cell<usize>,
    returned: Event,
    /// Senders whose peers take nothing, by number: the longest first.
    stalls: RefCell<BTreeMap<u64, Rc<StallState>>>,
    next: Cell<u64>,
    /// Held by senders that were told to hang up and have not done so yet.
    leaving_bytes: Cell<usize>,
}

#[derive(Default)]
struct StallState {
    since_ms: i64,
    bytes: usize,
    hang_up: Cell<bool>,
    changed: Event,
}

/// Memory of one answer; given back when it is dropped.
pub struct Held {
    memory: Rc<AnswerMemory>,
    bytes: usize,
}

/// One wait of a sender for its peer.
pub struct Stall {
    memory: Rc<AnswerMemory>,
    state: Rc<StallState>,
    number: u64,
}

impl AnswerMemory {
    /// For answers of at most `budget_bytes` in all.
    pub fn new(budget_bytes: usize) -> Rc<AnswerMemory> {
        Rc::new(AnswerMemory {
            budget_bytes: budget_bytes.min(ANSWERS_BYTES_MAX),
            held_bytes: Cell::new(0),
            returned: Event::default(),
            stalls: RefCell::default(),
            next: Cell::new(0),
            leaving_bytes: Cell::new(0),
        })
    }

    /// Bytes of all answers that are being made from records or sent.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    /// Memory for an answer of up to `wanted` bytes, or for as much of it as one answer may have now, and for a batch
    /// in any case; waits until there is room.
    pub async fn reserve(self: &Rc<Self>, wanted: usize) -> Held {
        loop {
            let seen = self.returned.generation();
            if let Some(bytes) = self.share(wanted) {
                return self.hold(bytes);
            }
            let wait_ms = self.make_room(self.least(), rt::steady_ms());
            futures_lite::future::or(self.returned.wait_past(seen), rt::sleep_ms(wait_ms)).await;
        }
    }

    /// Notes bytes that are in memory already.
    pub fn hold(self: &Rc<Self>, bytes: usize) -> Held {
        self.held_bytes.set(self.held_bytes.get() + bytes);
        Held { memory: self.clone(), bytes }
    }

    /// A sender, whose answer holds `bytes`, begins to wait for its peer.
    pub fn stalled(self: &Rc<Self>, bytes: usize) -> Stall {
        let now_ms = rt::steady_ms();
        let state = Rc::new(StallState { since_ms: now_ms, bytes, ..StallState::default() });
        // Answers that are made of no records did not wait for room.
        self.make_room(0, now_ms);
        let number = self.next.replace(self.next.get() + 1);
        self.stalls.borrow_mut().insert(number, state.clone());
        Stall { memory: self.clone(), state, number }
    }

    /// What an answer of `wanted` bytes may have now; `None` for nothing.
    fn share(&self, wanted: usize) -> Option<usize> {
        let held = self.held_bytes.get();
        let left = self.budget_bytes.saturating_sub(held);
        let bytes = wanted.clamp(self.least(), (left / ANSWER_PARTS).max(self.least()));
        (held == 0 || bytes <= left).then_some(bytes)
    }

    /// What an answer gets if it gets anything.
    fn least(&self) -> usize {
        ANSWER_BYTES_MIN.min(self.budget_bytes / ANSWER_PARTS).max(1)
    }

    /// Tells senders to hang up, those first that have waited for longest, until `needed_bytes` more will fit. Answers
    /// when to look again.
    fn make_room(&self, needed_bytes: usize, now_ms: i64) -> u64 {
        let fits = || {
            let staying = self.held_bytes.get().saturating_sub(self.leaving_bytes.get());
            staying + needed_bytes <= self.budget_bytes
        };
        if fits() {
            return STALL_MS_MIN;
        }
        for stall in self.stalls.borrow().values().filter(|stall| stall.bytes > 0 && !stall.hang_up.get()) {
            let stalled_ms = u64::try_from(now_ms - stall.since_ms).unwrap_or(0);
            if stalled_ms < STALL_MS_MIN {
                return STALL_MS_MIN - stalled_ms;
            }
            stall.hang_up.set(true);
            self.leaving_bytes.set(self.leaving_bytes.get() + stall.bytes);
            stall.changed.fire();
            metrics::add(Counter::StalledPeersEnded, 1);
            if fits() {
                break;
            }
        }
        STALL_MS_MIN
    }
}

impl Held {
    /// Bytes that may be used.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes what the answer really holds.
    pub fn set(&mut self, bytes: usize) {
        let memory = &self.memory;
        memory.held_bytes.set(memory.held_bytes.get() - self.bytes + bytes);
        if bytes < self.bytes {
            memory.returned.fire();
        }
        self.bytes = bytes;
    }

    /// Notes that the answer holds `bytes`, if there is room for so many.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let others = self.memory.held_bytes.get() - self.bytes;
        let fits = others + bytes <= self.memory.budget_bytes;
        if fits {
            self.set(bytes);
        }
        fits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Stall {
    /// Resolves when the sender is to end its connection: others need the memory.
    pub async fn hung_up(&self) {
        self.state.changed.wait_until(|| self.state.hang_up.get()).await;
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let memory = &self.memory;
        if self.state.hang_up.get() {
            memory.leaving_bytes.set(memory.leaving_bytes.get() - self.state.bytes);
        }
        memory.stalls.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    const BUDGET: usize = 16 << 20;

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        futures_lite::future::block_on(futures_lite::future::poll_once(future))
    }

    #[test]
    fn answers_share_what_is_left_and_all_together_stay_within_the_budget() {
        let memory = AnswerMemory::new(BUDGET);
        let mut held = Vec::new();
        while let Some(bytes) = memory.share(usize::MAX) {
            held.push(memory.hold(bytes));
            assert!(memory.held_bytes() <= BUDGET);
        }
        assert!(held.len() > ANSWER_PARTS, "the first few do not take everything");
        held.iter().for_each(|one| assert!(one.bytes() >= ANSWER_BYTES_MIN));
        assert!(memory.share(0).is_none(), "who asks for nothing may get a batch");
        held.pop();
        assert!(memory.share(usize::MAX).is_some());
    }

    #[test]
    fn one_answer_is_always_let_through() {
        let memory = AnswerMemory::new(1);
        let mut first = now(memory.reserve(100)).expect("nothing is held");
        first.set(5 << 20);
        assert!(memory.share(1).is_none());
        drop(first);
        assert!(memory.share(1).is_some());
    }

    #[test]
    fn who_has_stalled_for_longest_is_hung_up_on_and_nobody_more_than_has_to_be() {
        const EACH: usize = BUDGET / 4;
        let memory = AnswerMemory::new(BUDGET);
        let _held: Vec<Held> = (0..4).map(|_| memory.hold(EACH)).collect();
        let (first, second, third) = (memory.stalled(EACH), memory.stalled(EACH), memory.stalled(EACH));
        let began = first.state.since_ms;
        assert!(memory.make_room(100, began) > 0 && now(first.hung_up()).is_none(), "not at once");
        let later = third.state.since_ms + STALL_MS_MIN as i64;
        memory.make_room(100, later);
        memory.make_room(EACH, later);
        assert!(now(first.hung_up()).is_some() && now(second.hung_up()).is_none());
        // The peer of the second has taken something: then it is the third's turn.
        drop(second);
        let fourth = memory.stalled(EACH);
        memory.make_room(EACH + 1, later);
        assert!(now(third.hung_up()).is_some() && now(fourth.hung_up()).is_none());
        drop((first, third, fourth));
        assert!(memory.stalls.borrow().is_empty() && memory.leaving_bytes.get() == 0);
    }

    #[test]
    fn answers_without_records_make_the_longest_stalled_go_as_well() {
        let memory = AnswerMemory::new(BUDGET);
        let (_first, _second) = (memory.hold(BUDGET), memory.hold(BUDGET));
        let old = memory.stalled(BUDGET);
        memory.make_room(0, old.state.since_ms + STALL_MS_MIN as i64);
        assert!(now(old.hung_up()).is_some());
    }

    #[test]
    fn what_pins_more_than_it_says_is_noted_when_there_is_room() {
        let memory = AnswerMemory::new(BUDGET);
        let mut held = memory.hold(100);
        let _others = memory.hold(BUDGET / 2);
        assert!(held.try_grow(BUDGET / 4) && !held.try_grow(BUDGET));
        assert_eq!(memory.held_bytes(), BUDGET / 2 + BUDGET / 4);
    }
}
