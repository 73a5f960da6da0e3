//! How many connections the whole process has, in all and of each peer address.
//!
//! Owner: the process; every core counts here when it accepts and when it closes, and at no other time. It is the one
//! table that cores share under locks: limits that each core enforced for itself would be wrong by as much as the
//! kernel spreads connections unevenly. Invariants: an address is in the table as long as it has a connection; a lock
//! is held for one look-up. It must not be touched by a request.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::CONNECTION_TABLES;
use crate::maps::HashMap;

/// Counts of open connections.
pub struct ConnectionCounts {
    total: AtomicUsize,
    tables: Vec<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for ConnectionCounts {
    fn default() -> Self {
        let tables = (0..CONNECTION_TABLES).map(|_| Mutex::default()).collect();
        ConnectionCounts { total: AtomicUsize::new(0), tables }
    }
}

impl ConnectionCounts {
    /// Counts a connection in, unless there are `total_max` in all or `per_address_max` of its address.
    pub fn admit(&self, address: Option<IpAddr>, total_max: usize, per_address_max: usize) -> bool {
        if self.total.fetch_add(1, Ordering::Relaxed) >= total_max {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let Some(address) = address else { return true };
        let mut table = self.table(address);
        let open = table.get(&address).copied().unwrap_or(0);
        if open >= per_address_max {
            self.total.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        table.insert(address, open + 1);
        true
    }

    /// Counts a connection out that was counted in.
    pub fn release(&self, address: Option<IpAddr>) {
        self.total.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = address else { return };
        let mut table = self.table(address);
        match table.get_mut(&address) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(table.remove(&address)),
        }
    }

    fn table(&self, address: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        let at = hasher.finish() as usize % self.tables.len();
        self.tables[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_places_come_back() {
        let counts = ConnectionCounts::default();
        let (a, b) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([127, 0, 0, 2])));
        assert!(counts.admit(a, 3, 2) && counts.admit(a, 3, 2));
        assert!(!counts.admit(a, 3, 2), "the third of one address");
        assert!(counts.admit(b, 3, 2));
        assert!(!counts.admit(b, 3, 2), "the fourth in all");
        counts.release(a);
        assert!(counts.admit(b, 3, 2));
        [a, b, b].into_iter().for_each(|address| counts.release(address));
        assert_eq!(counts.total.load(Ordering::Relaxed), 0);
        assert!(counts.tables.iter().all(|table| table.lock().expect("no panic").is_empty()));
    }

    #[test]
    fn threads_together_stay_below_the_limit() {
        let counts = ConnectionCounts::default();
        let address = Some(IpAddr::from([10, 0, 0, 1]));
        let admitted = std::thread::scope(|scope| {
            let work = || (0..1000).filter(|_| counts.admit(address, 5000, 700)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        });
        assert_eq!(admitted, 700);
    }
}
