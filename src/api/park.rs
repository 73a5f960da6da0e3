//! Waiting for news of partitions on any core: what a fetch without enough data does, of either kind.
//!
//! Owner: the connection's core; every partition is watched on its own core. Invariants: a wait that ends, however it
//! does, takes its watches on other cores with it; nothing is polled in between. It must not know what is waited for.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use crate::rt;
use crate::shard::Shard;
use crate::sync::Event;

/// Waits until `watch` returns on one of the cores, the deadline passes or the broker stops.
///
/// `watch` runs on each core to which `owner_of` gives any of `items`, with those; it must return when the event, which
/// starts at generation 0, has fired.
pub(super) async fn park<T, W>(
    shard: &Rc<Shard>,
    deadline: Instant,
    items: &[T],
    owner_of: impl Fn(&T) -> usize,
    watch: W,
) where
    T: Copy + Send + 'static,
    W: AsyncFn(Rc<Shard>, Vec<T>, Rc<Event>) + Clone + Send + 'static,
{
    let mut waits: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    let left = deadline.saturating_duration_since(Instant::now());
    waits.push(Box::pin(rt::sleep_ms(left.as_millis() as u64 + 1)));
    let stopping = shard.clone();
    waits.push(Box::pin(async move { stopping.stop.wait_until(|| stopping.is_stopping()).await }));
    let mut away = Vec::new();
    for core in 0..shard.mesh.cores() {
        let mine: Vec<T> = items.iter().filter(|item| owner_of(item) == core).copied().collect();
        if mine.is_empty() {
            continue;
        }
        let watch = watch.clone();
        if core == shard.core {
            let shard = shard.clone();
            waits.push(Box::pin(async move { watch(shard, mine, Rc::default()).await }));
            continue;
        }
        let id = next_watch_id(shard.core);
        away.push((core, id));
        let receiver = shard
            .mesh
            .start_call(core, move |owner| {
                // Opened before the task first runs: the cancellation may arrive before that.
                let cancel = owner.open_watch(id);
                Box::pin(async move {
                    watch(owner.clone(), mine, cancel).await;
                    owner.close_watch(id);
                })
            })
            .await;
        waits.push(Box::pin(async move {
            let _ = receiver.recv_async().await;
        }));
    }
    poll_fn(|cx| match waits.iter_mut().any(|wait| wait.as_mut().poll(cx).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
    for (core, id) in away {
        shard.mesh.send_soon(core, Box::new(move |owner| owner.close_watch(id)));
    }
}

thread_local! {
    static WATCHES: Cell<u64> = const { Cell::new(0) };
}

/// A number that no other wait has: the core above, a counter below.
fn next_watch_id(core: usize) -> u64 {
    WATCHES.with(|watches| {
        watches.set(watches.get() + 1);
        (core as u64) << 48 | watches.get()
    })
}
