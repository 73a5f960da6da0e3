//! The transaction coordinator as any core may ask it: finds the core of a transactional id and asks there.
//!
//! Owner: the core that asks. Invariant: what was asked runs to its end on the coordinator's core, whether or not the
//! one who asked still waits. It must not keep state.

use std::rc::Rc;

use super::txn::TxnPartition;
use super::txn_state::{ProducerKey, TxnError, TxnMetadata};
use super::{Home, InternalTopic, home_in, home_of};
use crate::limits::TXN_ID_BYTES_MAX;
use crate::rt;
use crate::shard::{LocalFuture, Shard};

/// Partitions by topic name.
pub type TxnPartitions = Vec<(String, i32)>;

async fn at_home<R: Send + 'static>(
    shard: &Rc<Shard>,
    home: Home,
    work: impl FnOnce(Rc<Shard>, Rc<TxnPartition>) -> LocalFuture<Result<R, TxnError>> + Send + 'static,
) -> Result<R, TxnError> {
    let call = move |owner: Rc<Shard>| -> LocalFuture<Result<R, TxnError>> {
        Box::pin(async move {
            let partition = owner.coordinators.transactions.partition(&owner, home).await?;
            work(owner, partition).await
        })
    };
    shard.mesh.call(home.core, call).await.unwrap_or(Err(TxnError::NotAvailable))
}

/// Where an id lives that must have been made before.
fn known_home(shard: &Rc<Shard>, id: &str) -> Result<Home, TxnError> {
    let topic = InternalTopic::TransactionState.find(&shard.catalog()).ok_or(TxnError::UnknownProducer)?;
    Ok(home_in(shard, &topic, id))
}

fn checked(id: &str) -> Result<String, TxnError> {
    let valid = (1..=TXN_ID_BYTES_MAX).contains(&id.len());
    valid.then(|| id.to_owned()).ok_or(TxnError::InvalidRequest)
}

/// InitProducerId with a transactional id.
pub async fn init(
    shard: &Rc<Shard>,
    id: &str,
    timeout_ms: i32,
    expected: Option<ProducerKey>,
) -> Result<ProducerKey, TxnError> {
    let id = checked(id)?;
    if timeout_ms <= 0 || timeout_ms > shard.config.transactions.timeout_ms_max {
        return Err(TxnError::InvalidTimeout);
    }
    let home =
        home_of(shard, InternalTopic::TransactionState, &id).await.map_err(|_| TxnError::NotAvailable)?;
    let work = move |owner: Rc<Shard>, partition: Rc<TxnPartition>| -> LocalFuture<_> {
        Box::pin(async move { partition.init(&owner, &id, timeout_ms, expected).await })
    };
    at_home(shard, home, work).await
}

/// Makes partitions part of a transaction, which begins with the first.
pub async fn add(
    shard: &Rc<Shard>,
    id: &str,
    producer: ProducerKey,
    partitions: TxnPartitions,
) -> Result<(), TxnError> {
    let id = checked(id)?;
    let home = known_home(shard, &id)?;
    let work = move |_, partition: Rc<TxnPartition>| -> LocalFuture<_> {
        Box::pin(async move { partition.add(&id, producer, &partitions).await })
    };
    at_home(shard, home, work).await
}

/// Which partitions are part of the producer's transaction.
pub async fn verify(
    shard: &Rc<Shard>,
    id: &str,
    producer: ProducerKey,
    partitions: TxnPartitions,
) -> Result<Vec<bool>, TxnError> {
    let id = checked(id)?;
    let home = known_home(shard, &id)?;
    let work = move |_, partition: Rc<TxnPartition>| -> LocalFuture<_> {
        Box::pin(async move { partition.verify(&id, producer, &partitions).await })
    };
    at_home(shard, home, work).await
}

/// EndTxn; the producer with which the client goes on.
pub async fn end(
    shard: &Rc<Shard>,
    id: &str,
    producer: ProducerKey,
    commit: bool,
    bumps: bool,
) -> Result<ProducerKey, TxnError> {
    let id = checked(id)?;
    let home = known_home(shard, &id)?;
    let work = move |owner: Rc<Shard>, partition: Rc<TxnPartition>| -> LocalFuture<_> {
        Box::pin(async move { partition.end(&owner, &id, producer, commit, bumps).await })
    };
    at_home(shard, home, work).await
}

/// What is known of an id.
pub async fn describe(shard: &Rc<Shard>, id: &str) -> Result<TxnMetadata, TxnError> {
    let id = checked(id)?;
    let home = known_home(shard, &id)?;
    let work = move |_, partition: Rc<TxnPartition>| -> LocalFuture<_> {
        Box::pin(async move { partition.describe(&id) })
    };
    at_home(shard, home, work).await
}

/// All ids of all cores, and whether some are still being read.
pub async fn list(shard: &Rc<Shard>) -> (Vec<(String, TxnMetadata)>, bool) {
    let (mut all, mut loading) = (Vec::new(), false);
    for core in 0..shard.mesh.cores() {
        let work = |owner: Rc<Shard>| -> LocalFuture<_> {
            Box::pin(async move { owner.coordinators.transactions.list() })
        };
        match shard.mesh.call(core, work).await {
            Some((ids, still)) => {
                all.extend(ids);
                loading |= still;
            }
            None => loading = true,
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    (all, loading)
}

/// What the coordinator of this core does by itself: reads its partitions, so that decided transactions are completed,
/// aborts what takes too long, forgets what is not used.
pub async fn serve(shard: Rc<Shard>) {
    if let Some(topic) = InternalTopic::TransactionState.find(&shard.catalog()) {
        for partition in 0..topic.partition_count() as i32 {
            let home = Home { core: shard.core, topic_id: topic.id, partition };
            if shard.owner_of(topic.id, partition) == shard.core {
                let _ = shard.coordinators.transactions.partition(&shard, home).await;
            }
        }
    }
    let config = shard.config.transactions.clone();
    let mut expired_ms = rt::steady_ms();
    while !shard.is_stopping() {
        let stop = shard.stop.wait_until(|| shard.is_stopping());
        futures_lite::future::or(stop, rt::sleep_ms(config.abort_interval_ms)).await;
        shard.coordinators.transactions.abort_timed_out(&shard).await;
        let now_ms = rt::steady_ms();
        if now_ms.saturating_sub(expired_ms) >= config.expiry_interval_ms {
            expired_ms = now_ms;
            let before_ms = shard.expiry_ms().saturating_sub(config.id_expiration_ms);
            shard.coordinators.transactions.expire(before_ms).await;
        }
    }
}
