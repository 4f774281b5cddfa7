//! A lock that keeps a second server off a database file. Two servers that each keep the line in their memory would both
//! admit people up to the capacity, and take the line from each other.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Held by the only server of a database file. The system releases the lock when the process ends, however it ends.
#[derive(Debug)]
pub struct SoleServer(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

impl SoleServer {
    /// Takes the lock of a database file: a file beside it. `None`: another server has it.
    ///
    /// # Errors
    /// If the file cannot be opened or locked.
    pub fn lock(database: &Path) -> io::Result<Option<Self>> {
        let file = File::options().create(true).truncate(false).write(true).open(lock_of(database))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn lock_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_has_the_lock_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("usher.db");

        let first = SoleServer::lock(&database).unwrap();

        assert!(first.is_some());
        assert!(SoleServer::lock(&database).unwrap().is_none());
        assert!(SoleServer::lock(&folder.path().join("other.db")).unwrap().is_some());
        drop(first);
        assert!(SoleServer::lock(&database).unwrap().is_some());
    }
}
