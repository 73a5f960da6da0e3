//! The file-system seam: blocking calls on files and directories, as the storage engine, the catalog and a start use
//! them. In the broker these are the standard library's own, under the same names, and cost nothing.
//!
//! Owner: the caller, which must be on a thread that may block. In test builds the same names also reach a simulated
//! disk (`sim`), so that a power loss, an error or a torn write can be put at every single call.
//! It must not hold code of its own: what is here cannot be simulated.

#[cfg(not(test))]
pub use std::fs::{
    DirEntry, File, create_dir_all, exists as try_exists, hard_link, metadata, read, read_dir,
    read_to_string, remove_dir_all, remove_file, rename, write,
};
#[cfg(not(test))]
pub use std::os::unix::fs::FileExt;

/// Whether a name is there (and can be looked at).
#[cfg(not(test))]
pub fn exists(path: impl AsRef<std::path::Path>) -> bool {
    try_exists(path).unwrap_or(false)
}

#[cfg(test)]
pub use crate::sim::fs::{
    DirEntry, File, FileExt, create_dir_all, exists, hard_link, metadata, read, read_dir, read_to_string,
    remove_dir_all, remove_file, rename, write,
};
