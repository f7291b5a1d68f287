//! Topic paths: names of topics, in segments between slashes.
//!
//! Invariant: what passes [`check`] is a path that a server can have, and [`selector`] selects it and nothing else.

/// Longer paths are no names but mistakes.
pub const PATH_BYTES_MAX: usize = 8192;
/// Longer selectors are split into several.
pub const SELECTOR_BYTES_MAX: usize = 8192;
/// The branch that belongs to the server.
const RESERVED: &str = "Diffusion";

/// Why a text is no topic path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// See [`PATH_BYTES_MAX`].
    #[error("it is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// `/a`, `a/` or `a//b`.
    #[error("it has an empty segment: a path neither begins nor ends with a slash, and has no two in a row")]
    EmptySegment,
    /// Below `Diffusion`.
    #[error("the branch \"Diffusion\" belongs to the server")]
    Reserved,
    /// A control character.
    #[error("it has a control character")]
    Control,
}

/// Whether `path` is a topic path.
///
/// # Errors
/// Why it is none.
pub fn check(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    // Never part of a name on purpose, and unreadable in every tool.
    if path.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    if path.split('/').any(str::is_empty) {
        return Err(PathError::EmptySegment);
    }
    if path.split('/').next() == Some(RESERVED) {
        return Err(PathError::Reserved);
    }
    Ok(())
}

/// The selector of this topic alone, whatever its path begins with.
pub fn selector(path: &str) -> String {
    format!(">{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_segments_of_any_characters() {
        for path in ["a", "a/b/c", "ä/日本", "?a/*", ">x", "a b", "Diffusions/x", "x/Diffusion", "."] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
        let cases = [
            ("", PathError::Empty),
            ("/a", PathError::EmptySegment),
            ("a/", PathError::EmptySegment),
            ("a//b", PathError::EmptySegment),
            ("/", PathError::EmptySegment),
            ("Diffusion", PathError::Reserved),
            ("Diffusion/x", PathError::Reserved),
            ("a\nb", PathError::Control),
            ("a\0", PathError::Control),
        ];
        for (path, error) in cases {
            assert_eq!(check(path), Err(error), "{path:?}");
        }
        assert_eq!(check(&"x".repeat(PATH_BYTES_MAX + 1)), Err(PathError::TooLong));
    }
}
