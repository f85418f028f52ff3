//! The picture: header, tabs, table, footer, and what lies over them.

use super::app::{App, Overlay};
use super::grid;
use super::tabs::{
    self, Tab,
    connections::{WIDE, left_of},
};
use super::theme::{Theme, Tone};
use crate::ui::units::{bytes, bytes_rate, count, percent, rate, seconds, span, width};
use crate::ui::view::View;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Widget as _};

/// A view older than this is said to be old, seconds.
const OLD: f64 = 3.0;

/// Keys and what they do.
const KEYS: &[(&str, &str)] = &[
    ("0-9 Tab ← →", "change tab"),
    ("↑ ↓ j k PgUp PgDn", "select a row"),
    ("Enter", "everything about the row"),
    ("s, r", "sort by the next column; reverse"),
    ("/", "show only rows with a text; Esc: all"),
    ("p, Space", "pause and go on"),
    ("q, Ctrl-C", "leave"),
    ("", ""),
    ("~1.2ms", "no sample this second: the last minute's"),
    ("–", "nothing is known"),
    ("RETR", "retransmitted of segments sent, 10 s"),
    ("JITTER", "RTT from one sample to the next, p50"),
    ("CONNECT", "SYN sent to established, p50"),
];

/// Draws everything.
pub fn draw(frame: &mut Frame, app: &mut App) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let mut rest = area;
    let take = |height: u16, rest: &mut Rect| {
        let height = height.min(rest.height);
        let part = Rect { height, ..*rest };
        (rest.y, rest.height) = (rest.y + height, rest.height - height);
        part
    };
    let lines = if area.height >= 16 { 3 } else { 2 };
    for line in header(app, area.width, lines) {
        line.render(take(1, &mut rest), buffer);
    }
    tab_bar(app, area.width).render(take(1, &mut rest), buffer);
    if let Some(why) = &app.gone {
        let style = app.theme.style(Tone::Bad);
        Line::from(Span::styled(format!(" {why}"), style)).render(take(1, &mut rest), buffer);
    }
    rest.height = rest.height.saturating_sub(1);
    table(buffer, rest, app);
    let foot = Rect {
        y: area.bottom().saturating_sub(1),
        height: area.height.min(1),
        ..area
    };
    footer(app, area.width).render(foot, buffer);
    match app.overlay {
        Overlay::None => {}
        Overlay::Help => help(buffer, area, app.theme),
        Overlay::Detail(at) => detail(buffer, area, app, at),
    }
}

fn header(app: &App, wide: u16, lines: usize) -> Vec<Line<'static>> {
    let theme = app.theme;
    let mut left = vec![Span::styled(" geophone", theme.style(Tone::Title))];
    if let Some(view) = &app.view {
        let place: Vec<&str> = [view.region.as_str(), &view.zone]
            .into_iter()
            .filter(|t| !t.is_empty())
            .collect();
        left.push(Span::styled(
            format!("  {}", view.host),
            theme.style(Tone::Strong),
        ));
        if !place.is_empty() {
            left.push(Span::raw(format!("  {}", place.join("/"))));
        }
        left.push(Span::styled(
            format!("  up {}", span(view.uptime)),
            theme.style(Tone::Dim),
        ));
    }
    let (status, tone) = status(app);
    let room = usize::from(wide).saturating_sub(width(&status) + 2);
    // The state is worth more than the place and the age.
    while left.len() > 1 && left.iter().map(Span::width).sum::<usize>() > room {
        left.pop();
    }
    let mut first = Line::from(left);
    let space = " ".repeat((room + 1).saturating_sub(first.width()));
    first.push_span(Span::raw(space));
    first.push_span(Span::styled(status, theme.style(tone)));
    let mut out = vec![first];
    if let Some(view) = &app.view {
        out.extend(tabs::agent::chips(&summary(view), wide, theme));
    }
    out.resize(lines, Line::default());
    out
}

fn status(app: &App) -> (String, Tone) {
    let age = app.received.elapsed().as_secs_f64();
    match (&app.view, &app.gone) {
        (_, Some(_)) => ("NO ANSWER".into(), Tone::Bad),
        _ if app.paused => ("PAUSED".into(), Tone::Warn),
        (None, _) => ("starting".into(), Tone::Dim),
        (Some(_), _) if age >= OLD => (format!("{} OLD", span(age)), Tone::Bad),
        (Some(view), _) if age >= 1.5 => (format!("tick {}, {} ago", view.tick, span(age)), Tone::Dim),
        (Some(view), _) => (format!("tick {}", view.tick), Tone::Dim),
    }
}

/// The most important first: what finds no room is left out.
fn summary(view: &View) -> Vec<(&'static str, String, Tone)> {
    let total = &view.total;
    let mut out = Vec::new();
    match &total.rtt {
        Some(l) => {
            let mark = if l.old() { "~" } else { "" };
            out.push((
                "RTT",
                format!("p50 {mark}{}  p99 {mark}{}", seconds(l.p50), seconds(l.p99)),
                Tone::Strong,
            ));
        }
        None => out.push(("RTT", "–".into(), Tone::Dim)),
    }
    let ratio = total.retransmit_ratio.map_or(("–".into(), Tone::Dim), |r| {
        (
            percent(r),
            if r < 0.01 {
                Tone::Strong
            } else {
                tabs::connections::retransmit_tone(r)
            },
        )
    });
    out.push(("conns", count(total.connections as f64), Tone::Strong));
    out.push(("retransmits", ratio.0, ratio.1));
    let drops = if view.drops_rate > 0.0 {
        Tone::Warn
    } else {
        Tone::Strong
    };
    out.push(("drops", format!("{}/s", rate(view.drops_rate)), drops));
    out.push(("rx", bytes_rate(total.receive_rate), Tone::Strong));
    out.push(("tx", bytes_rate(total.transmit_rate), Tone::Strong));
    let cpu = view.cost.cpu.map_or("–".into(), percent);
    let rss = view.cost.memory_bytes.map_or("–".into(), bytes);
    out.push(("agent", format!("CPU {cpu}  RSS {rss}"), Tone::Strong));
    let wrong: f64 = view.accounts.iter().map(|a| a.unaccounted.abs()).sum();
    let lost: u64 = view.accounts.iter().map(|a| a.lost()).sum();
    if wrong > 0.0 {
        out.push(("", format!("{} UNACCOUNTED", count(wrong)), Tone::Bad));
    } else if lost > 0 {
        out.push(("events lost", count(lost as f64), Tone::Warn));
    } else if !view.accounts.is_empty() {
        out.push(("", "all accounted".into(), Tone::Dim));
    }
    out
}

fn tab_bar(app: &App, wide: u16) -> Line<'static> {
    let shown = Tab::shown(app.view.as_deref());
    let needed: usize = shown.iter().map(|tab| width(tab.title().0) + 4).sum();
    let whole = needed <= usize::from(wide);
    let title = |tab: Tab| if whole { tab.title().0 } else { tab.title().1 };
    let mut line = Line::default();
    for (i, tab) in shown.into_iter().enumerate() {
        let text = match wide {
            50.. => format!(" {} {} ", (i + 1) % 10, title(tab)),
            _ => format!("{}{} ", (i + 1) % 10, title(tab)),
        };
        let style = if tab == app.tab {
            app.theme.selected()
        } else {
            app.theme.style(Tone::Normal)
        };
        line.push_span(Span::styled(text, style));
    }
    line
}

fn table(buffer: &mut Buffer, area: Rect, app: &mut App) {
    let theme = app.theme;
    let mut rest = area;
    if app.tab == Tab::Agent
        && let Some(view) = &app.view
    {
        rest = tabs::agent::draw_upper(buffer, area, view, theme);
    }
    if app.tab == Tab::Stacks
        && let Some(hot) = app.view.as_ref().and_then(|view| view.stacks.as_ref())
    {
        rest = tabs::stacks::draw_upper(buffer, area, hot, theme);
    }
    let (rows, all) = app.rows();
    if rows.is_empty() {
        let text = match (&app.gone, &app.view, all) {
            (Some(_), None, _) => return,
            (None, None, _) => "waiting for the first second…".into(),
            (_, _, 0) => app.tab.nothing().to_owned(),
            _ => format!("nothing contains “{}” (Esc shows all)", app.filter),
        };
        let middle = Rect {
            y: rest.y + rest.height / 3,
            height: rest.height.min(1),
            ..rest
        };
        Line::from(Span::styled(text, theme.style(Tone::Dim)))
            .centered()
            .render(middle, buffer);
        return;
    }
    let foot = app
        .view
        .as_ref()
        .filter(|_| app.filter.is_empty())
        .and_then(|v| app.tab.foot(v));
    let columns = app.tab.columns();
    grid::draw(buffer, rest, columns, &rows, foot.as_ref(), app.grid(), theme);
}

fn footer(app: &App, wide: u16) -> Line<'static> {
    let theme = app.theme;
    if app.typing {
        let text = format!(" filter: {}█", app.filter);
        return Line::from(vec![
            Span::styled(text, theme.style(Tone::Strong)),
            Span::styled("   Enter keep   Esc show all", theme.style(Tone::Dim)),
        ]);
    }
    let grid = &app.grids[app.tab.index()];
    let title = app.tab.columns().get(grid.sort).map_or("", |c| c.title);
    let sort = format!("sort: {title} {}", if grid.reverse { '▲' } else { '▼' });
    let filter = if app.filter.is_empty() {
        "filter".into()
    } else {
        format!("filter: {}", app.filter)
    };
    let pause = if app.paused { "go on" } else { "pause" };
    let detail = matches!(app.overlay, Overlay::Detail(_));
    let keys: Vec<(&str, &str)> = match detail {
        true => vec![("Esc", "back"), ("↑↓", "scroll"), ("p", pause), ("?", "help")],
        false => vec![
            ("q", "quit"),
            ("?", "help"),
            ("/", &filter),
            ("s", &sort),
            ("↵", "detail"),
            ("p", pause),
            ("Tab", "next"),
            ("r", "reverse"),
        ],
    };
    let mut line = Line::default();
    for (key, what) in keys {
        let text = format!(" {what}  ");
        if line.width() + width(&text) + width(key) > usize::from(wide) {
            break;
        }
        line.push_span(Span::styled(format!(" {key}"), theme.style(Tone::Title)));
        line.push_span(Span::styled(text, theme.style(Tone::Dim)));
    }
    line
}

fn popup(buffer: &mut Buffer, area: Rect, (wide, high): (u16, u16), title: &str, theme: Theme) -> Rect {
    let (wide, high) = (wide.min(area.width), high.min(area.height));
    let area = Rect {
        x: area.x + (area.width - wide) / 2,
        y: area.y + (area.height - high) / 2,
        width: wide,
        height: high,
    };
    // A wide character that reaches in from the left would push the border away.
    for y in area.top()..area.bottom() {
        if let Some(cell) = area.x.checked_sub(1).and_then(|x| buffer.cell_mut((x, y)))
            && width(cell.symbol()) > 1
        {
            cell.set_symbol(" ");
        }
    }
    Clear.render(area, buffer);
    let title = Span::styled(format!(" {title} "), theme.style(Tone::Strong));
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    block.render(area, buffer);
    Rect {
        x: inner.x + 1,
        width: inner.width.saturating_sub(2),
        ..inner
    }
}

fn help(buffer: &mut Buffer, area: Rect, theme: Theme) {
    let inner = popup(buffer, area, (66, KEYS.len() as u16 + 2), "help", theme);
    let line = |(key, what): &(&str, &str)| {
        let key = crate::ui::units::fit(key, 19, false);
        Line::from(vec![
            Span::styled(key, theme.style(Tone::Title)),
            Span::raw((*what).to_owned()),
        ])
    };
    Paragraph::new(KEYS.iter().map(line).collect::<Vec<_>>()).render(inner, buffer);
}

fn detail(buffer: &mut Buffer, area: Rect, app: &mut App, at: u16) {
    let theme = app.theme;
    let room = Rect {
        height: area.height.saturating_sub(1),
        ..area
    };
    let size = (
        room.width.saturating_sub(4).min(120),
        room.height.saturating_sub(if room.height > 16 { 2 } else { 0 }),
    );
    let inside = (size.0.saturating_sub(4), size.1.saturating_sub(2));
    let id = app.grid().selected.clone().unwrap_or_default();
    let Some(found) = app
        .tab
        .popup(&id, app.view.as_deref(), &app.records, theme, inside)
    else {
        let inner = popup(buffer, room, (44, 3), "gone", theme);
        Line::from("this row is no longer there").render(inner, buffer);
        return;
    };
    let two = inside.0 >= WIDE && !found.right.is_empty();
    let below = if two {
        found.left.len().max(found.right.len())
    } else {
        found.left.len() + found.right.len()
    };
    let high = (found.upper.len() + below) as u16;
    let inner = popup(buffer, room, (size.0, size.1.min(high + 2)), &found.title, theme);
    let at = at.min(high.saturating_sub(inner.height));
    app.overlay = Overlay::Detail(at);
    if !two {
        let gap = if found.right.is_empty() || found.left.is_empty() {
            None
        } else {
            Some(Line::default())
        };
        let all: Vec<Line> = [found.upper, found.left]
            .concat()
            .into_iter()
            .chain(gap)
            .chain(found.right)
            .collect();
        Paragraph::new(all).scroll((at, 0)).render(inner, buffer);
        return;
    }
    let upper = found.upper.len() as u16;
    let shown = upper.saturating_sub(at).min(inner.height);
    Paragraph::new(found.upper).scroll((at, 0)).render(
        Rect {
            height: shown,
            ..inner
        },
        buffer,
    );
    let below = Rect {
        y: inner.y + shown,
        height: inner.height - shown,
        ..inner
    };
    let half = left_of(below.width);
    let scroll = (at.saturating_sub(upper), 0);
    let right = Rect {
        x: below.x + half + 1,
        width: below.width - half - 1,
        ..below
    };
    Paragraph::new(found.left)
        .scroll(scroll)
        .render(Rect { width: half, ..below }, buffer);
    Paragraph::new(found.right).scroll(scroll).render(right, buffer);
}
