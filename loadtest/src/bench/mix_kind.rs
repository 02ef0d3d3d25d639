//! Which texts of many lengths there are.

use clap::ValueEnum;

/// Which texts of many lengths to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mix {
    /// The repository's sample of WordNet's sentences
    Sentences,
    /// The same, joined and cut: lognormal lengths, 41 tokens on average, 256 at most
    Mixed,
    /// None
    None,
    /// Those of `--texts`
    #[value(skip)]
    File,
}

impl Mix {
    /// The mix's name, as on the command line. `None` for [`Mix::None`], which has no texts.
    pub(super) const fn name(self) -> Option<&'static str> {
        match self {
            Self::Sentences => Some("sentences"),
            Self::Mixed => Some("mixed"),
            Self::None => None,
            Self::File => Some("file"),
        }
    }

    /// Tokens of a text, about, before they are known.
    pub(super) const fn about_tokens(self) -> usize {
        match self {
            Self::Sentences => 16,
            Self::Mixed | Self::File => 41,
            Self::None => 0,
        }
    }
}
