//! `geophone top`: the live view in a terminal.

pub mod app;
mod draw;
pub mod grid;
mod remote;
mod screen;
mod source;
pub mod tabs;
#[cfg(test)]
mod tests;
pub mod theme;

pub use remote::RemoteSource;
pub use source::{LocalSource, Source, Update};
pub use tabs::clean_view;
pub use theme::Theme;

use super::view::View;
use anyhow::Context as _;
use app::App;
use crossterm::event::{Event, EventStream};
use futures::StreamExt as _;
use screen::Screen;
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// Records are drawn, and ages grow, this often.
const FRAME: Duration = Duration::from_millis(250);
/// Updates that wait to be drawn.
const WAITING: usize = 64;

/// How the live view behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Colour or none.
    pub theme: Theme,
    /// Leave by itself after this time.
    pub duration: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            theme: Theme::from_env(),
            duration: None,
        }
    }
}

/// Whether there is a terminal to draw on and to take keys from.
pub fn has_terminal() -> bool {
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
}

/// Shows what a source tells until the reader quits, a signal comes, the time is over or the source ends.
/// Returns the newest view, for a summary. Needs a [terminal](has_terminal). The log must not go to the terminal meanwhile.
pub async fn run(source: impl Source, options: Options) -> anyhow::Result<Option<View>> {
    let mut updates = pump(source);
    let mut screen = Screen::take().context("live view: take the terminal")?;
    let mut app = App::new(options.theme);
    let mut keys = EventStream::new();
    let mut terminate = signal(SignalKind::terminate()).context("live view: handle SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("live view: handle SIGHUP")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("live view: handle SIGINT")?;
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = options.duration.map(|d| Instant::now() + d);
    let over = async || match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    };
    while !app.quit {
        // Records alone do not cause a frame: there may be thousands a second.
        let draw = tokio::select! {
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) => {
                    app.key(key);
                    true
                }
                Some(Ok(_)) => true,
                // The terminal is gone.
                Some(Err(_)) | None => break,
            },
            update = updates.recv() => match update {
                Some(update) => {
                    let draw = !matches!(update, Update::Records(_));
                    app.apply(update);
                    draw
                }
                None => break,
            },
            _ = frames.tick() => true,
            () = over() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            _ = interrupt.recv() => break,
        };
        if !screen.ours() {
            anyhow::bail!("live view: stopped by a panic in another thread");
        }
        if draw {
            screen
                .terminal
                .draw(|frame| draw::draw(frame, &mut app))
                .context("live view: draw")?;
        }
    }
    Ok(app.newest().cloned())
}

/// Lets the source run by itself, so that a key never interrupts a request.
fn pump(mut source: impl Source) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                update = source.next() => {
                    let Some(update) = update else { return };
                    if sender.send(update).await.is_err() {
                        return;
                    }
                }
                () = sender.closed() => return,
            }
        }
    });
    receiver
}
