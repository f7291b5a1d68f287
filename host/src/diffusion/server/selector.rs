//! Topic selectors: which topics a session subscribes to or removes.
//!
//! Invariant: a selector that does not parse is an error of whoever sent it, never a selector of everything.

use regex::Regex;

use crate::diffusion::path::SELECTOR_BYTES_MAX;

const BETWEEN: &str = "////";

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no topic selector")]
pub struct SelectorError(pub String);

/// A parsed selector.
#[derive(Debug, Clone)]
pub enum Selector {
    /// `a/b` or `>a/b`: one path.
    Path(String),
    /// `?a/.*/c`: a regular expression for each segment.
    Segments(Vec<Regex>, Reach),
    /// `*a.*`: one regular expression for the whole path.
    Whole(Regex, Reach),
    /// `#a////b`: what any of them selects.
    Any(Vec<Selector>),
}

/// What of a branch is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// What matches.
    Match,
    /// `/`: what is below it.
    Descendants,
    /// `//`: both.
    Branch,
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let wrong = || SelectorError(text.to_owned());
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(wrong());
        }
        let regex = |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).map_err(|_| wrong());
        match text.chars().next().ok_or_else(wrong)? {
            '>' => Ok(Selector::Path(text[1..].to_owned())),
            '?' => {
                let (pattern, reach) = reach(&text[1..]);
                let segments: Result<Vec<_>, _> = pattern.split('/').map(regex).collect();
                Ok(Selector::Segments(segments?, reach))
            }
            '*' => {
                let (pattern, reach) = reach(&text[1..]);
                Ok(Selector::Whole(regex(pattern)?, reach))
            }
            '#' => {
                let parts: Result<Vec<_>, _> = text[1..].split(BETWEEN).map(Selector::parse).collect();
                Ok(Selector::Any(parts.map_err(|_| wrong())?))
            }
            '$' | '%' | '&' | '<' => Err(wrong()),
            _ => Ok(Selector::Path(text.to_owned())),
        }
    }

    /// Whether it selects the topic at `path`.
    pub fn selects(&self, path: &str) -> bool {
        match self {
            Selector::Path(wanted) => path == wanted,
            Selector::Any(parts) => parts.iter().any(|part| part.selects(path)),
            Selector::Whole(regex, reach) => reach.of(path, |path| regex.is_match(path)),
            Selector::Segments(segments, reach) => reach.of(path, |path| {
                let found: Vec<&str> = path.split('/').collect();
                found.len() == segments.len() && segments.iter().zip(found).all(|(segment, found)| segment.is_match(found))
            }),
        }
    }
}

impl Reach {
    fn of(self, path: &str, matches: impl Fn(&str) -> bool) -> bool {
        let below = || path.match_indices('/').any(|(at, _)| matches(&path[..at]));
        match self {
            Reach::Match => matches(path),
            Reach::Descendants => below(),
            Reach::Branch => matches(path) || below(),
        }
    }
}

fn reach(pattern: &str) -> (&str, Reach) {
    if let Some(pattern) = pattern.strip_suffix("//") {
        (pattern, Reach::Branch)
    } else if let Some(pattern) = pattern.strip_suffix('/') {
        (pattern, Reach::Descendants)
    } else {
        (pattern, Reach::Match)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select_paths_segments_and_branches() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            ("a/b", &["a/b"], &["a", "a/b/c", "x/a/b"]),
            (">?a", &["?a"], &["a"]),
            ("?a/.*/c", &["a/b/c", "a/xx/c"], &["a/c", "a/b/x/c", "a/b/c/d"]),
            ("?a/", &["a/b", "a/b/c"], &["a", "ab/c"]),
            ("?a//", &["a", "a/b", "a/b/c"], &["b", "ab"]),
            ("?.*//", &["a", "a/b"], &[]),
            ("*a.*z", &["az", "a/b/z"], &["az/b", "b/az"]),
            ("*a.*z//", &["az/b"], &["b"]),
            ("#a////?b//", &["a", "b/c"], &["a/c"]),
        ];
        for (text, selected, others) in cases {
            let selector = Selector::parse(text).unwrap();
            for path in selected {
                assert!(selector.selects(path), "{text} {path}");
            }
            for path in others {
                assert!(!selector.selects(path), "{text} {path}");
            }
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in ["", "$a", "%a", "&a", "<a", "?(", "*[", "#a////", &"x".repeat(SELECTOR_BYTES_MAX + 1)] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
