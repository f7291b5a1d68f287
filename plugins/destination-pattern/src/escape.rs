//! What becomes of characters of a record's text that would mean something in a destination.
//!
//! Invariant: unless it is asked to, a text never adds a level, nor becomes one that means another folder (`.`, `..`).

/// How text of a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Escape {
    /// `/`, `%` and control characters become `%2F` and the like: different texts stay different.
    #[default]
    Percent,
    /// All but ASCII letters, digits, `-`, `.` and `_` become `_`: what topics and tables may be called.
    Underscore,
    /// As it is.
    Keep,
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

impl Escape {
    /// Appends a text; with `levels` its slashes stay.
    pub fn push(self, text: &str, levels: bool, out: &mut String) {
        match self {
            Escape::Keep => out.push_str(text),
            _ if levels => {
                for (index, level) in text.split('/').enumerate() {
                    if index > 0 {
                        out.push('/');
                    }
                    self.push(level, false, out);
                }
            }
            Escape::Percent if text.bytes().all(|byte| !may_need_percent(byte)) => out.push_str(text),
            Escape::Percent => percent(text, out),
            Escape::Underscore if text.bytes().all(|byte| is_plain(byte) && byte != b'.') => out.push_str(text),
            Escape::Underscore => underscore(text, out),
        }
    }
}

fn means_a_folder(text: &str) -> bool {
    matches!(text, "." | "..")
}

/// 0xC2 begins the controls U+0080 to U+009F, and harmless characters too. A dot matters only alone.
fn may_need_percent(byte: u8) -> bool {
    matches!(byte, b'/' | b'%' | b'.' | 0..0x20 | 0x7f | 0xc2)
}

fn percent(text: &str, out: &mut String) {
    let dots = means_a_folder(text);
    for character in text.chars() {
        if !(matches!(character, '/' | '%') || character.is_control() || dots) {
            out.push(character);
            continue;
        }
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

fn underscore(text: &str, out: &mut String) {
    let dots = means_a_folder(text);
    out.extend(text.chars().map(|character| if character.is_ascii() && is_plain(character as u8) && !dots { character } else { '_' }));
}
