//! The control thread: the one writer of the catalog.
//!
//! Owner: a thread of its own, not pinned, that may block on the disk. Cores reach it through a bounded
//! channel. Invariants: a change is on disk before any core sees it, and on every core before it is
//! answered; changes are applied one after another.
//! It must not touch partitions; the cores do when they get the new snapshot.

use std::sync::Arc;

use super::mesh::{Job, Mesh};
use crate::catalog::{Catalog, CatalogChange, CatalogError, CatalogStore, PRODUCER_ID_BLOCK_SIZE};
use crate::rt;

/// Requests that may wait for the control thread.
const CONTROL_QUEUE_MAX: usize = 1024;

/// Why a change was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ControlError {
    /// The change does not fit the catalog as it is now.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The catalog file could not be written.
    #[error("the catalog could not be written: {0}")]
    Disk(Arc<str>),
    /// The broker stops.
    #[error("the broker is stopping")]
    Stopping,
}

/// Makes the changes to apply from the catalog as it is when the control thread gets to it.
type Planner = Box<dyn FnOnce(&Catalog) -> Vec<CatalogChange> + Send>;

struct Request {
    plan: Planner,
    reply: flume::Sender<Result<Arc<Catalog>, ControlError>>,
}

/// The way to the control thread; cheap to clone.
#[derive(Clone)]
pub struct Control {
    queue: flume::Sender<Request>,
}

impl Control {
    /// Starts the control thread over an open catalog.
    pub fn start(mut store: CatalogStore, first: Arc<Catalog>, mesh: Mesh) -> std::io::Result<Control> {
        let (queue, requests) = flume::bounded::<Request>(CONTROL_QUEUE_MAX);
        rt::beside("ringlog-control".into(), move || async move {
            let mut current = first;
            while let Ok(request) = requests.recv_async().await {
                let outcome = change(&mut store, &current, request.plan, &mesh).await;
                if let Ok(next) = &outcome {
                    current = next.clone();
                }
                let _ = request.reply.send(outcome);
            }
        })?;
        Ok(Control { queue })
    }

    /// Plans and makes changes; resolves when every core has the new catalog.
    pub async fn change(
        &self,
        plan: impl FnOnce(&Catalog) -> Vec<CatalogChange> + Send + 'static,
    ) -> Result<Arc<Catalog>, ControlError> {
        let (reply, answer) = flume::bounded(1);
        let request = Request { plan: Box::new(plan), reply };
        self.queue.send_async(request).await.map_err(|_| ControlError::Stopping)?;
        answer.recv_async().await.map_err(|_| ControlError::Stopping)?
    }

    /// Reserves a block of producer ids and returns the first.
    pub async fn reserve_producer_ids(&self) -> Result<i64, ControlError> {
        let block = PRODUCER_ID_BLOCK_SIZE;
        let catalog = self.change(move |_| vec![CatalogChange::ReserveProducerIds(block)]).await?;
        Ok((catalog.next_producer_id - block) as i64)
    }
}

async fn change(
    store: &mut CatalogStore,
    current: &Arc<Catalog>,
    plan: Planner,
    mesh: &Mesh,
) -> Result<Arc<Catalog>, ControlError> {
    let changes = plan(current);
    if changes.is_empty() {
        return Ok(current.clone());
    }
    let next = Arc::new(current.apply(&changes)?);
    store.commit(&next).map_err(|error| {
        tracing::error!("the catalog could not be written: {error}");
        ControlError::Disk(error.to_string().into())
    })?;
    let (seen, all_seen) = flume::bounded(mesh.cores());
    for core in 0..mesh.cores() {
        let (next, seen) = (next.clone(), seen.clone());
        let job: Job = Box::new(move |shard| {
            let shard = shard.clone();
            rt::spawn(async move {
                shard.apply_catalog(next).await;
                let _ = seen.send(());
            });
        });
        mesh.send(core, job).await;
    }
    drop(seen);
    // Ends when every core has answered, or is gone and has dropped its sender.
    while all_seen.recv_async().await.is_ok() {}
    Ok(next)
}
