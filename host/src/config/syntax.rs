//! Mistakes in the TOML itself: what the parser says, in our words, without what follows from it.
//!
//! Invariant: at most one mistake of syntax is shown for each table of the file; the others follow from it more often than not.

use std::ops::Range;

use super::problem::Problem;

/// Reports what the parser found; true if the file's structure is broken.
pub(super) fn report(text: &str, errors: &[toml::de::Error], problems: &mut Vec<Problem>) -> bool {
    let mut is_broken = false;
    let mut last_section = None;
    let mut section_twice = None;
    for error in errors {
        let at = error.span().unwrap_or(0..0);
        let header = header_before(text, at.start);
        if error.message().starts_with("duplicate key") {
            let is_header = header.as_ref().is_some_and(|header| header.contains(&at.start));
            if is_header {
                section_twice.clone_from(&header);
                let title = header.map_or_else(String::new, |header| text[header].trim().to_owned());
                let help = "names are unique: rename this one, or put both together";
                problems.push(Problem::error(at, format!("the table {title} stands here a second time"), help));
            } else if section_twice.is_none() || header != section_twice {
                let name = text.get(at.clone()).unwrap_or_default();
                problems.push(Problem::error(at, format!("the key `{name}` stands here a second time"), "keep one of the two"));
            }
            continue;
        }
        is_broken = true;
        if last_section.replace(header.clone()) == Some(header) {
            continue;
        }
        let message = error.message().split(", expected").next().unwrap_or_default();
        let help = match message {
            message if message.contains("must be quoted") => "put the text into quotes",
            message if message.contains("unclosed") => "close it",
            _ => "see https://toml.io for the syntax",
        };
        problems.push(Problem::error(at, message, help));
    }
    is_broken
}

/// The line of the table header that a place belongs to.
fn header_before(text: &str, at: usize) -> Option<Range<usize>> {
    let before = &text[..text[at..].find('\n').map_or(text.len(), |length| at + length)];
    let start = before.rfind("\n[").map(|line_break| line_break + 1).or_else(|| before.starts_with('[').then_some(0))?;
    let end = text[start..].find('\n').map_or(text.len(), |length| start + length);
    Some(start..end)
}
