//! Which core of this node owns a partition.
//!
//! Owner: none, a pure function. Invariants: deterministic for a number of cores; consecutive partitions of one
//! topic land on consecutive cores, and the topics' first partitions are spread by their ids. Must not: depend on
//! anything but its arguments, since every core computes it for itself.

use uuid::Uuid;

/// The index (not the cpu id) of the core that owns a partition, below `cores`.
///
/// `partition` may come from the network: a negative one gets some core, whose catalog then refuses it.
pub fn owner_core(topic_id: Uuid, partition: i32, cores: usize) -> usize {
    assert!(cores > 0, "a node has at least one core");
    // Topic ids are random (version 4), but not all their bits are; folding and multiplying spreads those that are.
    let bits = topic_id.as_u128();
    let folded = (bits as u64) ^ ((bits >> 64) as u64);
    let start = (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % cores;
    (start + partition.unsigned_abs() as usize % cores) % cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topics_partitions_go_round_robin() {
        let id = Uuid::new_v4();
        for cores in 1..9 {
            let owners: Vec<usize> = (0..cores as i32 * 2).map(|p| owner_core(id, p, cores)).collect();
            for (p, owner) in owners.iter().enumerate() {
                assert_eq!(*owner, (owners[0] + p) % cores);
            }
        }
        assert!(
            owner_core(id, i32::MIN, 3) < 3 && owner_core(id, -1, 3) < 3 && owner_core(id, i32::MAX, 3) < 3
        );
    }

    #[test]
    fn single_partition_topics_are_spread() {
        let mut counts = [0_u32; 4];
        for n in 0..4000_u128 {
            let id =
                uuid::Builder::from_random_bytes((n.wrapping_mul(0x1234_5678_9ABC_DEF1_2345)).to_le_bytes());
            counts[owner_core(id.into_uuid(), 0, 4)] += 1;
        }
        assert!(counts.iter().all(|&count| (600..1400).contains(&count)), "{counts:?}");
    }
}
