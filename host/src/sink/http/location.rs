//! Where requests go: a URL, or a pattern with `${destination}` in its path or query.
//!
//! Invariant: scheme, user, host and port are those of the configuration, whatever a record says. Text of a record is
//! percent-encoded segment by segment and never becomes `.`, `..`, an empty segment or a further parameter.

use url::{Position, Url};

use crate::config::{HttpUrl, Remedy};

const PLACE: &str = "${destination}";
/// Longer destinations are no path that a server takes.
const DESTINATION_LEN_MAX: usize = 2048;
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// A checked `url` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The same for all records.
    Fixed(Url),
    /// The destination of each record stands in it.
    Pattern {
        /// The pattern as it was written.
        text: String,
        /// What every expansion starts with: scheme, host and port.
        origin: String,
    },
}

/// Why a destination makes no URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// There is none.
    #[error("the url contains ${{destination}} and the record has no destination")]
    Missing,
    /// See [`DESTINATION_LEN_MAX`].
    #[error("the destination is longer than {DESTINATION_LEN_MAX} bytes")]
    TooLong,
    /// A control character, an empty segment, `.` or `..`.
    #[error("destination {0:?} has {1}")]
    Unsafe(String, &'static str),
}

impl Location {
    /// Takes the text of the configuration.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn parse(text: &str) -> Result<Self, Remedy> {
        if !text.contains("${") {
            return Ok(Location::Fixed(checked(text)?));
        }
        let foreign = text.match_indices("${").find(|(at, _)| !text[*at..].starts_with(PLACE));
        if let Some((at, _)) = foreign {
            let wrong = format!("{:?} is not replaced in a url, only {PLACE}", &text[at..]);
            return Err(Remedy::new(wrong, format!("let a plugin choose the destination, and write {PLACE}")));
        }
        let sample = checked(&text.replace(PLACE, "d"))?;
        let other = checked(&text.replace(PLACE, "e"))?;
        if sample[..Position::BeforePath] != other[..Position::BeforePath] {
            let wrong = format!("{PLACE} stands in front of the path, so a record could choose the host");
            return Err(Remedy::new(wrong, format!("write it into the path or the query: \"https://host/{PLACE}\"")));
        }
        if text.split_once('#').is_some() {
            return Err(Remedy::new("a fragment (#) is no part of a request", "leave it out"));
        }
        Ok(Location::Pattern { text: text.to_owned(), origin: sample[..Position::BeforePath].to_owned() })
    }

    /// Whether records choose where they go.
    pub fn needs_destination(&self) -> bool {
        matches!(self, Location::Pattern { .. })
    }

    /// The URL for a record.
    ///
    /// # Errors
    /// Where its destination makes no URL.
    pub fn url(&self, destination: Option<&str>) -> Result<Url, DestinationError> {
        let (text, origin) = match self {
            Location::Fixed(url) => return Ok(url.clone()),
            Location::Pattern { text, origin } => (text, origin),
        };
        let destination = destination.ok_or(DestinationError::Missing)?;
        if destination.len() > DESTINATION_LEN_MAX {
            return Err(DestinationError::TooLong);
        }
        let unsound = |what| DestinationError::Unsafe(destination.to_owned(), what);
        if destination.chars().any(char::is_control) {
            return Err(unsound("a control character"));
        }
        for segment in destination.split('/') {
            match segment {
                "" => return Err(unsound("an empty segment")),
                "." | ".." => return Err(unsound("a segment that means another folder")),
                _ => (),
            }
        }
        let (path, query) = text.split_once('?').map_or((text.as_str(), None), |(path, query)| (path, Some(query)));
        let mut expanded = path.replace(PLACE, &encode(destination, true));
        // `.${destination}` could still make one of the two.
        if expanded.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(unsound("a segment that means another folder"));
        }
        if let Some(query) = query {
            expanded.push('?');
            expanded.push_str(&query.replace(PLACE, &encode(destination, false)));
        }
        let url = Url::parse(&expanded).map_err(|_| unsound("text that makes no url"))?;
        if url[..Position::BeforePath] != **origin {
            return Err(unsound("text that changes the host"));
        }
        Ok(url)
    }

    /// Host and port, for looking whether somebody listens there.
    pub fn address(&self) -> Option<(String, u16)> {
        let url = match self {
            Location::Fixed(url) => url.clone(),
            Location::Pattern { origin, .. } => Url::parse(origin).ok()?,
        };
        Some((url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?))
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Location::Fixed(url) => f.write_str(url.as_str()),
            Location::Pattern { text, .. } => f.write_str(text),
        }
    }
}

fn checked(text: &str) -> Result<Url, Remedy> {
    text.parse::<HttpUrl>().map(|url| (*url).clone())
}

/// Everything but unreserved characters (RFC 3986, section 2.3) is encoded; `/` stays where segments are wanted.
fn encode(text: &str, segments: bool) -> String {
    let mut encoded = String::with_capacity(text.len() + 8);
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            b'/' if segments => encoded.push('/'),
            _ => {
                encoded.push('%');
                encoded.push(HEX[usize::from(byte >> 4)] as char);
                encoded.push(HEX[usize::from(byte & 15)] as char);
            }
        }
    }
    encoded
}

/// Text as a header's value: what is not visible ASCII is percent-encoded.
pub(super) fn header_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'%' => text.push_str("%25"),
            b' '..=b'~' => text.push(byte as char),
            _ => {
                text.push('%');
                text.push(HEX[usize::from(byte >> 4)] as char);
                text.push(HEX[usize::from(byte & 15)] as char);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(pattern: &str, destination: &str) -> Result<String, DestinationError> {
        Location::parse(pattern).unwrap().url(Some(destination)).map(String::from)
    }

    #[test]
    fn a_destination_is_encoded_segment_by_segment() {
        let cases = [
            ("http://h/in/${destination}", "a/b", "http://h/in/a/b"),
            ("http://h/in/${destination}", "ä b?x=1#y", "http://h/in/%C3%A4%20b%3Fx%3D1%23y"),
            ("http://h/in/${destination}.json", "%2e%2e", "http://h/in/%252e%252e.json"),
            ("http://h/in?to=${destination}&v=1", "a/b&v=2", "http://h/in?to=a%2Fb%26v%3D2&v=1"),
            ("http://h:81/${destination}", "@evil:80/x", "http://h:81/%40evil%3A80/x"),
            ("http://h/${destination}", "\\evil", "http://h/%5Cevil"),
        ];
        for (pattern, destination, url) in cases {
            assert_eq!(expand(pattern, destination).as_deref(), Ok(url));
        }
    }

    #[test]
    fn a_destination_never_leaves_its_folder() {
        for destination in ["..", "a/../b", ".", "a//b", "/a", "a/", "", "a\nb", "a\0", "a\u{85}b"] {
            let refused = expand("http://h/in/${destination}", destination);
            assert!(matches!(refused, Err(DestinationError::Unsafe(..))), "{destination:?}: {refused:?}");
        }
        assert!(expand("http://h/in/.${destination}", "a").is_ok());
        let longer = "x".repeat(DESTINATION_LEN_MAX + 1);
        assert_eq!(expand("http://h/${destination}", &longer), Err(DestinationError::TooLong));
        assert_eq!(Location::parse("http://h/${destination}").unwrap().url(None), Err(DestinationError::Missing));
    }

    #[test]
    fn the_host_never_comes_from_a_record() {
        for pattern in [
            "http://${destination}/x",
            "http://a.${destination}/x",
            "http://h:${destination}/",
            "${destination}",
            "${destination}://h/",
            "http://h${destination}",
            "http://h/${topic}",
            "ftp://h/",
            "http://me:secret@h/",
            "not a url",
        ] {
            assert!(Location::parse(pattern).is_err(), "{pattern}");
        }
    }
}
