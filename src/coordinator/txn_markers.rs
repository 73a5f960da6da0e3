//! Writing the markers that end a transaction, on every core that has partitions of it.
//!
//! Owner: the coordinator asks, the partitions' cores write. Invariants: a marker counts once it is flushed; a
//! partition that is gone needs none; markers may be written twice, the second one then ends nothing.
//! It must not decide how a transaction ends.

use std::rc::Rc;

use uuid::Uuid;

use super::error::GroupError;
use super::{Home, InternalTopic, groups};
use crate::partition::Partition;
use crate::rt;
use crate::shard::Shard;
use crate::storage::{AppendError, Durability, Incoming, LogError};
use crate::wire::control_batch::{self, Marker};
use crate::wire::record_batch;

/// What became of one marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerOutcome {
    /// In the log, flushed.
    Written,
    /// The partition does not exist.
    Gone,
    /// The partition knows a newer epoch of the producer.
    Fenced,
    /// The log could not take it.
    Failed,
}

/// A partition that gets a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkerTarget {
    /// Topic id.
    pub topic_id: Uuid,
    /// Partition index.
    pub partition: i32,
}

/// Writes `marker` to all `targets`; the outcomes are in their order.
pub async fn write_markers(
    shard: &Rc<Shard>,
    marker: Marker,
    targets: &[MarkerTarget],
) -> Vec<MarkerOutcome> {
    let mut outcomes = vec![MarkerOutcome::Failed; targets.len()];
    let mut calls = Vec::new();
    for core in 0..shard.mesh.cores() {
        let is_mine = |(_, target): &(usize, &MarkerTarget)| {
            shard.owner_of(target.topic_id, target.partition.max(0)) == core
        };
        let (places, mine): (Vec<usize>, Vec<MarkerTarget>) =
            targets.iter().enumerate().filter(is_mine).unzip();
        if mine.is_empty() {
            continue;
        }
        let work = move |owner: Rc<Shard>| -> crate::shard::LocalFuture<Vec<MarkerOutcome>> {
            Box::pin(async move { write_here(&owner, marker, &mine).await })
        };
        calls.push((places, shard.mesh.start_call(core, work).await));
    }
    for (places, answer) in calls {
        for (place, outcome) in places.into_iter().zip(answer.recv_async().await.unwrap_or_default()) {
            outcomes[place] = outcome;
        }
    }
    outcomes
}

async fn write_here(owner: &Rc<Shard>, marker: Marker, targets: &[MarkerTarget]) -> Vec<MarkerOutcome> {
    // All are appended before the first is waited for, so that they share flushes.
    let mut appended = Vec::with_capacity(targets.len());
    let offsets = InternalTopic::ConsumerOffsets.find(&owner.catalog()).map(|topic| topic.id);
    for target in targets {
        if Some(target.topic_id) == offsets {
            appended.push(Err(end_offsets(owner, marker, target).await));
            continue;
        }
        appended.push(match owner.partition(target.topic_id, target.partition) {
            Some(partition) => append(&partition, marker).await,
            None => Err(MarkerOutcome::Gone),
        });
    }
    let mut outcomes = Vec::with_capacity(targets.len());
    for one in appended {
        outcomes.push(match one {
            Ok(durable) => {
                durable.wait().await.map_or_else(|error| failure(&error), |()| MarkerOutcome::Written)
            }
            Err(outcome) => outcome,
        });
    }
    outcomes
}

/// Offsets of a group become visible with the marker: its coordinator writes it behind them.
async fn end_offsets(owner: &Rc<Shard>, marker: Marker, target: &MarkerTarget) -> MarkerOutcome {
    let home = Home { core: owner.core, topic_id: target.topic_id, partition: target.partition };
    match groups::open(owner, home) {
        Ok(partition) => match partition.end_transaction(marker).await {
            Ok(()) => MarkerOutcome::Written,
            Err(_) => MarkerOutcome::Failed,
        },
        Err(GroupError::NotCoordinator) => MarkerOutcome::Gone,
        Err(_) => MarkerOutcome::Failed,
    }
}

type Durable = crate::sync::Pending<crate::storage::AckResult>;

async fn append(partition: &Rc<Partition>, marker: Marker) -> Result<Durable, MarkerOutcome> {
    let mut bytes = control_batch::encode(&marker, rt::wall_ms());
    let batch = record_batch::parse_header(&bytes).map_err(|_| MarkerOutcome::Failed)?;
    let log = &partition.log;
    let (ticket, epoch) = (log.ticket(), partition.leader_epoch());
    match log.append(ticket, Incoming::Frame(&mut bytes), batch, epoch, Durability::Flushed, -1).await {
        Ok(appended) => Ok(appended.durable),
        Err(AppendError::Log(error)) => Err(failure(&error)),
        Err(AppendError::FencedProducer) => Err(MarkerOutcome::Fenced),
        Err(_) => Err(MarkerOutcome::Failed),
    }
}

fn failure(error: &LogError) -> MarkerOutcome {
    match error {
        LogError::Deleted => MarkerOutcome::Gone,
        _ => MarkerOutcome::Failed,
    }
}
