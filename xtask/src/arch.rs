//! The architectures that geophone is built for.

use clap::ValueEnum;

/// One of them, by Debian's and the images' name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64
    Amd64,
    /// aarch64; on other machines cross-built and emulated
    Arm64,
}

impl Arch {
    /// That of this machine.
    pub fn here() -> Self {
        match std::env::consts::ARCH {
            "aarch64" => Self::Arm64,
            _ => Self::Amd64,
        }
    }

    /// Whether programs of it do not run here.
    pub fn is_foreign(self) -> bool {
        self != Self::here()
    }

    /// As Debian and images name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust names it.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// What the names of its cross compiler and binary tools begin with.
    pub fn tools(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-",
            Self::Arm64 => "aarch64-linux-gnu-",
        }
    }
}
