//! "Did you mean": the known name that is nearest to what was written.

/// The nearest of `known`, if it is near enough to be a slip of the fingers.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let written = plain(written);
    let distance = |name: &str| strsim::damerau_levenshtein(&written, &plain(name));
    let best = known.into_iter().map(|name| (distance(name), name)).min()?;
    // A third of the letters may be wrong, but a short word is not turned into another one.
    (best.0 <= (written.chars().count() / 3).clamp(1, 4)).then_some(best.1)
}

/// The help for an unknown name among `known`, which are called `what`: the nearest one, or all that there are.
pub fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>, what: &str) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(written, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => format!("there are no {what}"),
        None => format!("the {what} are {}", listed(&known)),
    }
}

/// `a`, `b` and `c`
fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["brokers", "security", "session_timeout"];
        assert_eq!(nearest("brokrs", known), Some("brokers"));
        assert_eq!(nearest("Session-Timeout", known), Some("session_timeout"));
        assert_eq!(nearest("url", known), None);
        assert_eq!(nearest("bakery", known), None);
    }
}
