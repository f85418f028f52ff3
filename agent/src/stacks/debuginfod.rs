//! Debug information by build id from servers (`GET /buildid/ID/debuginfo`), kept on disk.
//!
//! A thread of its own fetches one file at a time, of bounded size and in bounded time, and nobody waits for it who must not:
//! names ask what there is. What a server sends is read by the process that reads symbols, as all files are.

use crate::error::{Context as _, Error, Result};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A server has so long for a file.
const PATIENCE: Duration = Duration::from_secs(60);
/// And so long to be reached; one that cannot be, or does not answer in time, is left alone for [`REST`].
const CONNECT: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(60);
/// A file that no server has is asked for again after this time.
const AGAIN: Duration = Duration::from_secs(3600);
/// Files that wait.
const WAITING: usize = 256;
/// Build ids that are remembered.
const REMEMBERED: usize = 16_384;

/// What has become of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is on its way.
    Pending,
    /// It is here.
    There(PathBuf),
    /// It cannot be had; from then on it may be asked for again.
    Failed(Instant),
}

#[derive(Debug, Default)]
struct Known {
    files: HashMap<String, State>,
    /// Those that could not be had at least once.
    failed: HashSet<String>,
    /// Files that could not be had, each once.
    failures: u64,
}

/// What servers have.
#[derive(Debug)]
pub struct Debuginfod {
    directory: PathBuf,
    known: Arc<Mutex<Known>>,
    wanted: SyncSender<String>,
}

impl Debuginfod {
    /// Of these servers, the first first; keeps at most so many bytes below a directory.
    pub fn start(servers: Vec<String>, directory: &Path, most: u64) -> Result<Self> {
        let directory = directory.join("debuginfod");
        let known = Arc::<Mutex<Known>>::default();
        let (wanted, receiver) = sync_channel(WAITING);
        let fetcher = Fetcher {
            servers: servers.into_iter().map(|url| (url, None)).collect(),
            directory: directory.clone(),
            most,
            known: known.clone(),
        };
        std::thread::Builder::new()
            .name("debuginfod".into())
            .spawn(move || fetcher.run(&receiver))
            .context("starting the thread that fetches debug information")?;
        Ok(Self {
            directory,
            known,
            wanted,
        })
    }

    /// What has become of the debug information of a build id; asks for it if nobody has.
    pub fn of(&self, build_id: &str) -> State {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.files.get(build_id) {
            Some(State::There(path)) if !path.exists() => {}
            Some(State::Failed(again)) if Instant::now() > *again => {}
            Some(state) => return state.clone(),
            None if known.files.len() >= REMEMBERED => {
                known.files.clear();
                known.failed.clear();
            }
            None => {}
        }
        let path = self.directory.join(file_name(build_id));
        let state = if path.exists() {
            State::There(path)
        } else if self.wanted.try_send(build_id.to_owned()).is_ok() {
            State::Pending
        } else {
            // Too many are waiting: it is asked for the next time.
            return State::Pending;
        };
        known.files.insert(build_id.to_owned(), state.clone());
        state
    }

    /// Files that could not be had.
    pub fn failures(&self) -> u64 {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).failures
    }
}

fn file_name(build_id: &str) -> String {
    format!("{build_id}.debug")
}

struct Fetcher {
    /// Each with the time when it could not be reached.
    servers: Vec<(String, Option<Instant>)>,
    directory: PathBuf,
    most: u64,
    known: Arc<Mutex<Known>>,
}

impl Fetcher {
    fn run(mut self, wanted: &Receiver<String>) {
        crate::bpf::host::low_priority(10);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = reqwest::Client::builder()
            .user_agent(concat!("geophone/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(PATIENCE)
            .build();
        while let Ok(build_id) = wanted.recv() {
            let fetched = match (&runtime, &client) {
                (Ok(runtime), Ok(client)) => runtime.block_on(self.fetch(client, &build_id)),
                (Err(e), _) => Err(Error::new(e)),
                (_, Err(e)) => Err(Error::new(e)),
            };
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let state = match fetched {
                Ok(path) => State::There(path),
                Err(e) => {
                    known.failures += u64::from(known.failed.insert(build_id.clone()));
                    tracing::debug!("debug information of {build_id}: {e}");
                    // One that rests may have it.
                    let rests = self.servers.iter().any(|(_, since)| since.is_some());
                    State::Failed(Instant::now() + if rests { REST } else { AGAIN })
                }
            };
            known.files.insert(build_id, state);
        }
    }

    async fn fetch(&mut self, client: &reqwest::Client, build_id: &str) -> Result<PathBuf> {
        let mut last = Error::new("no server could be reached");
        for at in 0..self.servers.len() {
            let Some((server, unreachable)) = self.servers.get(at) else {
                break;
            };
            if unreachable.is_some_and(|since| since.elapsed() < REST) {
                continue;
            }
            let url = format!("{}/buildid/{build_id}/debuginfo", server.trim_end_matches('/'));
            let reply = client.get(&url).send().await;
            if let Some((server, unreachable)) = self.servers.get_mut(at) {
                let before = *unreachable;
                *unreachable = reply
                    .as_ref()
                    .is_err_and(|e| e.is_connect() || e.is_timeout())
                    .then(Instant::now);
                if before.is_none() && unreachable.is_some() {
                    tracing::warn!(
                        "probes.profile.debuginfod: {server} cannot be reached or does not answer; it is asked again in a minute"
                    );
                }
            }
            match reply.and_then(reqwest::Response::error_for_status) {
                Ok(reply) => match self.keep(reply, build_id).await {
                    Ok(path) => return Ok(path),
                    Err(e) => last = e,
                },
                Err(e) => last = Error::new(e.without_url()),
            }
        }
        Err(last)
    }

    /// Writes what comes to a file, which gets its name when it is whole.
    async fn keep(&self, mut reply: reqwest::Response, build_id: &str) -> Result<PathBuf> {
        let too_large = || Error::new(format_args!("is larger than {} bytes", self.most));
        if reply.content_length().is_some_and(|len| len > self.most) {
            return Err(too_large());
        }
        private(&self.directory)?;
        let path = self.directory.join(file_name(build_id));
        let part = path.with_extension("part");
        let written: Result<u64> = async {
            let mut file = File::create(&part).context(part.display())?;
            let mut len = 0;
            while let Some(bytes) = reply.chunk().await.map_err(|e| Error::new(e.without_url()))? {
                len += bytes.len() as u64;
                if len > self.most {
                    return Err(too_large());
                }
                file.write_all(&bytes).context(part.display())?;
            }
            Ok(len)
        }
        .await;
        let kept = written.and_then(|len| {
            room(&self.directory, self.most.saturating_sub(len), &part);
            std::fs::rename(&part, &path).context(path.display())
        });
        if kept.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        kept.map(|()| path)
    }
}

/// A directory that nobody else can look into or write to.
pub fn private(directory: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .context(directory.display())
}

/// Removes the oldest files of a directory until the others have at most so many bytes; one is spared.
pub fn room(directory: &Path, most: u64, spared: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let is = entry.metadata().ok()?;
            (is.is_file() && entry.path() != spared).then(|| (is.modified().ok(), is.len(), entry.path()))
        })
        .map(|(when, len, path)| (when.unwrap_or(SystemTime::UNIX_EPOCH), len, path))
        .collect();
    files.sort_by_key(|(when, ..)| std::cmp::Reverse(*when));
    let mut sum = 0;
    for (_, len, path) in files {
        sum += len;
        if sum > most {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a file that a server is asked for.
    fn asked(debuginfod: &Debuginfod, id: &str) -> State {
        loop {
            match debuginfod.of(id) {
                State::Pending => std::thread::sleep(Duration::from_millis(10)),
                state => return state,
            }
        }
    }

    #[test]
    fn a_file_is_asked_for_again_soon_if_its_server_could_not_be_reached() {
        let directory = tempfile::tempdir().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let start = || Debuginfod::start(vec![url.clone()], directory.path(), 1 << 20).unwrap();
        let answers = std::thread::spawn(move || {
            use std::io::Read as _;
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            let reply = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(reply.as_bytes()).unwrap();
        });
        let (has_none, now) = (start(), Instant::now());
        assert!(matches!(asked(&has_none, "ab12"), State::Failed(again) if again > now + AGAIN / 2));
        answers.join().unwrap();
        let (is_gone, now) = (start(), Instant::now());
        for id in ["ab12", "ab13"] {
            assert!(matches!(asked(&is_gone, id), State::Failed(again) if again < now + AGAIN / 2));
        }
        assert_eq!((has_none.failures(), is_gone.failures()), (1, 2));
    }

    #[test]
    fn the_oldest_files_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (age, name) in ["old", "older", "spared"].iter().enumerate() {
            std::fs::write(at(name), [0; 100]).unwrap();
            let when = SystemTime::now() - Duration::from_secs(age as u64 * 100);
            File::options()
                .write(true)
                .open(at(name))
                .unwrap()
                .set_modified(when)
                .unwrap();
        }
        room(directory.path(), 150, &at("spared"));
        assert!(at("old").exists() && !at("older").exists() && at("spared").exists());
    }
}
