//! What things look like. Colour only repeats what the text and its weight already say.

use ratatui::style::{Color, Modifier, Style};

/// What a text means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Plain.
    #[default]
    Normal,
    /// Zero, old, or a label.
    Dim,
    /// A heading.
    Title,
    /// What the eye looks for.
    Strong,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
}

/// Colour or none.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    /// Use colours.
    pub color: bool,
}

impl Theme {
    /// Colours unless `NO_COLOR` is set and not empty, <https://no-color.org>.
    pub fn from_env() -> Self {
        Self {
            color: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }

    /// Style of a tone.
    pub fn style(self, tone: Tone) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        match (tone, self.color) {
            (Tone::Normal, _) => Style::new(),
            (Tone::Dim, true) => Style::new().fg(Color::DarkGray),
            (Tone::Dim, false) => Style::new().add_modifier(Modifier::DIM),
            (Tone::Title, true) => bold.fg(Color::Cyan),
            (Tone::Good, true) => Style::new().fg(Color::Green),
            (Tone::Good, false) => Style::new(),
            (Tone::Warn, true) => Style::new().fg(Color::Yellow),
            (Tone::Bad, true) => bold.fg(Color::Red),
            (Tone::Bad, false) => bold.add_modifier(Modifier::UNDERLINED),
            (Tone::Strong | Tone::Title | Tone::Warn, _) => bold,
        }
    }

    /// Style of the selected row or tab.
    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
