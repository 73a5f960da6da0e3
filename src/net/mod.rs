//! Connections: from socket bytes to frames, and from replies to vectored sends.
//!
//! Owner: one core per connection. The path: `listener` accepts, `connection` reads frames and keeps
//! replies in order, `idle` looks after those that are silent, `frame_pool` bounds the memory of requests, `answers`
//! that of answers, `receive` and `send` do not copy. It must not know what a request means; `api` does.

mod answers;
mod connection;
mod frame_pool;
mod idle;
mod listener;
mod receive;
mod send;

pub use answers::{AnswerMemory, Held};
pub use connection::{Frame, Outgoing, Payload, Reply};
pub use frame_pool::{FrameBuffer, FramePool};
pub use listener::{listen, serve};
