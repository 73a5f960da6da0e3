//! An answer that a group owes: kept until it is known, and never lost.
//!
//! Owner: the group that keeps it. Invariant: whoever waits gets exactly one answer; if the group goes before it has
//! one, the answer says so. It must not be held across cores.

use super::error::GroupError;
use crate::sync::{Pending, Promise, oneshot};

/// An answer that can say that there is none.
pub trait Refusable {
    /// The answer for `error`.
    fn refused(error: GroupError) -> Self;
}

/// See the module.
pub struct Parked<T: Refusable>(Option<Promise<T>>);

/// A debt and the way to wait for it.
pub fn park<T: Refusable>() -> (Parked<T>, Pending<T>) {
    let (promise, pending) = oneshot();
    (Parked(Some(promise)), pending)
}

impl<T: Refusable> Parked<T> {
    /// Pays.
    pub fn answer(mut self, value: T) {
        if let Some(promise) = self.0.take() {
            promise.fill(value);
        }
    }

    /// Pays with an error.
    pub fn refuse(self, error: GroupError) {
        self.answer(T::refused(error));
    }
}

impl<T: Refusable> Drop for Parked<T> {
    fn drop(&mut self) {
        if let Some(promise) = self.0.take() {
            promise.fill(T::refused(GroupError::NotCoordinator));
        }
    }
}

impl<T: Refusable> std::fmt::Debug for Parked<T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Parked")
    }
}
