//! Hash maps and sets: the standard library's, with random keys against hostile input.
//!
//! Owner: whoever makes one. In test builds the keys are fixed, so that the order in which a map is walked, and with it
//! everything that a simulation does, is the same in every run.
//! It must not hold code of its own.

#[cfg(not(test))]
pub use std::collections::{HashMap, HashSet};

#[cfg(test)]
type Fixed = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;
/// See `std::collections::HashMap`.
#[cfg(test)]
pub type HashMap<K, V> = std::collections::HashMap<K, V, Fixed>;
/// See `std::collections::HashSet`.
#[cfg(test)]
pub type HashSet<K> = std::collections::HashSet<K, Fixed>;
