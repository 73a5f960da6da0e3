//! The mesh: the only way from one core to another.
//!
//! Owner: each core has one inbox; anybody may send. A message is a closure that runs on the target core
//! in the order in which one sender sent. Invariants: inboxes are bounded (`MESH_INBOX_MAX`), senders
//! wait; memory that a message points into stays with its owner until the lease is returned.
//! It must not be used inside a partition's append or read.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::Shard;
use crate::limits::MESH_INBOX_MAX;
use crate::rt;

/// Work for another core.
pub type Job = Box<dyn FnOnce(&Rc<Shard>) + Send>;

/// A future that lives on one core.
pub type LocalFuture<R> = Pin<Box<dyn Future<Output = R>>>;

/// Sending sides of all inboxes, one per core; cheap to clone.
#[derive(Clone)]
pub struct Mesh {
    inboxes: Vec<flume::Sender<Job>>,
}

/// Makes the mesh of `cores` cores: the senders, and each core's receiver.
pub fn build(cores: usize) -> (Mesh, Vec<flume::Receiver<Job>>) {
    let (inboxes, receivers) = (0..cores).map(|_| flume::bounded(MESH_INBOX_MAX)).unzip();
    (Mesh { inboxes }, receivers)
}

impl Mesh {
    /// Number of cores.
    pub fn cores(&self) -> usize {
        self.inboxes.len()
    }

    /// Sends a job; waits while the inbox is full. A core that is gone drops it.
    pub async fn send(&self, core: usize, job: Job) {
        let _ = self.inboxes[core].send_async(job).await;
    }

    /// Sends a job from a thread that may block.
    pub fn send_blocking(&self, core: usize, job: Job) {
        let _ = self.inboxes[core].send(job);
    }

    /// Sends a job if there is room for it; false when the inbox is full or its core is gone.
    pub fn try_send(&self, core: usize, job: Job) -> bool {
        self.inboxes[core].try_send(job).is_ok()
    }

    /// Sends a job without waiting; when the inbox is full a task waits in the caller's place.
    pub fn send_soon(&self, core: usize, job: Job) {
        if let Err(flume::TrySendError::Full(job)) = self.inboxes[core].try_send(job) {
            let mesh = self.clone();
            rt::spawn(async move { mesh.send(core, job).await });
        }
    }

    /// Runs `work` on `core` and waits for its result; `None` when that core is gone.
    pub async fn call<R: Send + 'static>(
        &self,
        core: usize,
        work: impl FnOnce(Rc<Shard>) -> LocalFuture<R> + Send + 'static,
    ) -> Option<R> {
        let receiver = self.start_call(core, work).await;
        receiver.recv_async().await.ok()
    }

    /// Sends `work` to `core`; its result arrives in the receiver. Calls start in the order of sending.
    pub async fn start_call<R: Send + 'static>(
        &self,
        core: usize,
        work: impl FnOnce(Rc<Shard>) -> LocalFuture<R> + Send + 'static,
    ) -> flume::Receiver<R> {
        let (sender, receiver) = flume::bounded(1);
        let job: Job = Box::new(move |shard| {
            let future = work(shard.clone());
            rt::spawn(async move {
                let _ = sender.send(future.await);
            });
        });
        self.send(core, job).await;
        receiver
    }
}
