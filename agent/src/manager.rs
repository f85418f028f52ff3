//! What the service manager is told, as sd_notify(3) has it: where `NOTIFY_SOCKET` names nobody, nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

const READY: &str = "READY=1";

/// It was told that the agent is ready, and that it ends.
static IS_READY: AtomicBool = AtomicBool::new(false);
static ENDS: AtomicBool = AtomicBool::new(false);

/// The agent takes snapshots, and its API answers.
pub fn ready() {
    IS_READY.store(true, Relaxed);
    tell(READY);
}

/// It reads its rules again. Of one that is not ready yet, or ends, that is no news: the manager would take it for ready.
pub fn reloading() {
    if IS_READY.load(Relaxed) && !ENDS.load(Relaxed) {
        tell("RELOADING=1");
    }
}

/// It has read them.
pub fn reloaded() {
    if IS_READY.load(Relaxed) && !ENDS.load(Relaxed) {
        tell(READY);
    }
}

/// It was told to end, and does.
pub fn stopping() {
    ENDS.store(true, Relaxed);
    tell("STOPPING=1");
}

/// Tells it. Who is not heard is not less of an agent, so a failure is only a line in the log.
fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!("{state}: the service manager was not told: NOTIFY_SOCKET {socket:?}: {error}");
    }
}

/// A path, or a name of the kernel's own, which begins with `@`.
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: a manager that listens by a path, by an abstract name, and none. Seen: the words, by either; an error for the last.
    #[test]
    fn the_manager_hears_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("geophone-manager-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (manager, socket) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (
                UnixDatagram::bind_addr(&by_name).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            send(&socket, READY).unwrap();
            let mut heard = [0; 16];
            let length = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], READY.as_bytes());
        }
        assert!(send(directory.path().join("nobody").as_os_str(), READY).is_err());
    }
}
