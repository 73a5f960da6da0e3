//! The executor seam: spawning, sleeping and the clock of one core.
//!
//! Owner: the core that calls. Everything above storage uses these functions and never the runtime
//! itself, so that another executor, or a simulated one, could stand behind them.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Runs a task on this core until it ends; its panic aborts the process (see `main`).
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

/// Sleeps without holding the core.
pub async fn sleep_ms(ms: u64) {
    glommio::timer::sleep(Duration::from_millis(ms)).await;
}

/// Gives other tasks of this core a turn.
pub async fn yield_now() {
    glommio::executor().yield_now().await;
}

/// Runs blocking work on a thread beside the core.
pub async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    glommio::executor().spawn_blocking(work).await
}

/// Wall clock, milliseconds since the Unix epoch (Kafka timestamps).
pub fn wall_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
